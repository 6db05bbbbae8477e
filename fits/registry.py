"""The public tables that `fits.datasets` knows: where each comes from, what its columns mean, and which rows its authors fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HOST = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Table:
    """One public table. `columns`, `units`, `where`, `needs` and `output` are those of `fits.read_runs`.

    `products` are columns made by multiplying columns of the file. The recipe is the authors' own choice of rows, applied only if asked:
    rows of `recipe_where` (or of `recipe_also`), of them the last by a column in every cell, or the best of every cell.
    `output` is None where a table holds no runs with one measured loss, and is then not checked.
    """

    file: str
    title: str
    arxiv: str
    licence: str
    repository: str
    commit: str
    path: str
    sha256: str
    columns: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    public: bool = True  # `path` is this very file, byte for byte; otherwise the table was extracted from there
    packed_sha256: str | None = None  # of the gzip file at `url`, where the table lies inside one
    units: Mapping[str, str | float] = field(default_factory=dict)
    products: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    where: str | None = None
    needs: tuple[str, ...] | None = None
    output: str | None = "loss"
    recipe_where: str | None = None
    recipe_also: str | None = None
    recipe_last: tuple[str, str] | None = None
    recipe_best: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return self.file.removesuffix(".csv")

    @property
    def source(self) -> str:
        return f"github.com/{self.repository} @ {self.commit[:10]}, {self.path}"

    @property
    def url(self) -> str | None:
        """Where GitHub serves the file; None for a table that is no public file."""
        return f"{HOST}/{self.repository}/{self.commit}/{self.path}" if self.public else None

    @property
    def has_recipe(self) -> bool:
        return bool(self.recipe_where or self.recipe_last or self.recipe_best)

    @property
    def note(self) -> str:
        """What a user should know of the table: its remark, and what the licence allows."""
        none = " Its repository has no licence: read it for your own tests, the file must not be redistributed."
        return self.remark + (none if self.licence == "none" else f" Licence of its repository: {self.licence}.")


_PORIAN_SOURCE = "data/summary_df*.pickle.xz"
_PORIAN_TITLE = "Resolving Discrepancies in Compute-Optimal Scaling of Language Models"
_PORIAN_HEADLINE = 'dataset = "rw" and hparams = "tuned" and param_count = "standard"'
_PREDICTABLE_SCALE = "Predictable Scale: Part I, Optimal Hyperparameter Scaling Law in Large Language Model Pretraining"
_MISFITTING = {"params": "N", "non_embedding_params": "N_no_emb", "tokens": "D", "flops": "C", "learning_rate": "peak_lr"}

_ALL = [
    Table(
        file="chinchilla-epoch.csv",
        title="Chinchilla Scaling: A replication attempt",
        arxiv="2404.10102",
        licence="none",
        repository="epoch-research/analyzing-chinchilla",
        commit="92258837425e1b5f2851d624287f0120583a3d0e",
        path="data/svg_extracted_data.csv",
        sha256="193478df4e90f040016431996c45682659306840ecdadf83cfb9cd5ca0aa1b30",
        columns={"params": "Model Size", "flops": "Training FLOP", "loss": "loss"},
        recipe_where="loss < 3.43",
        remark="245 points read off figure 4 of Hoffmann et al. 2022; x, y and the colours are left over from the drawing. Recipe: without the"
        " five largest losses (240 rows), log-Huber with delta 1e-3.",
    ),
    Table(
        file="chinchilla-kyotakano-subset.csv",
        title="Chinchilla Scaling: A replication attempt",
        arxiv="2404.10102",
        licence="Apache-2.0",
        repository="kyo-takano/chinchilla",
        commit="75e5858f6e7c5b60d1fab69f66258132347b060c",
        path="examples/llm/df.csv",
        sha256="2ed2c412c6b408cb26896b92c0721fe9afa6515726b0db78c33db37cbf2816f9",
        columns={"params": "N", "tokens": "D", "flops": "C"},
        remark="The points of chinchilla-epoch with C above 1e18 and N below D, as chosen by a software package.",
    ),
    Table(
        file="misfitting-final.csv",
        title="(Mis)Fitting: A Survey of Scaling Laws",
        arxiv="2502.18969",
        licence="none",
        repository="hadasah/scaling_laws",
        commit="1f3708c0a12df0effb0ee906b1da5f9f0ff4f4f1",
        path="data/scaling_results_last_ckpt_only.csv",
        sha256="cd96b9eb8e5b2adc80e6739a642dd8554590edc96234d36859ab6ed0f5c30562",
        columns=_MISFITTING,
        recipe_best=("params", "tokens"),
        remark="Final checkpoints, loss on C4, up to five learning rates a point. Recipe: the best learning rate of each point. Some runs are"
        " listed twice; of equal losses the first is kept.",
    ),
    Table(
        file="misfitting-checkpoints.csv",
        title="(Mis)Fitting: A Survey of Scaling Laws",
        arxiv="2502.18969",
        licence="none",
        repository="hadasah/scaling_laws",
        commit="1f3708c0a12df0effb0ee906b1da5f9f0ff4f4f1",
        path="data/scaling_results.csv",
        sha256="193b4b7665365112605417e2ef06d55efe599cfa08412354e3ae42c3af7a9f58",
        columns=_MISFITTING,
        remark="The runs of misfitting-final at every checkpoint: points of one run are not independent, and the schedule has not ended.",
    ),
    Table(
        file="porian-isoflops.csv",
        title=_PORIAN_TITLE,
        arxiv="2406.19146",
        licence="MIT",
        repository="formll/resolving-scaling-law-discrepancies",
        commit="0dc60d91b8a525858a3067fc9e4a46ff5374cc6f",
        path=_PORIAN_SOURCE,
        public=False,
        sha256="8f8c53d2b57ceecac53a236e7214479b46999a1552602a6952f7310ac31f6e5c",
        columns={"params": "N", "tokens": "D", "corpus": "dataset"},
        recipe_where=_PORIAN_HEADLINE.replace("dataset", "corpus"),
        remark="15 experiments of isoFLOP curves (losses interpolated at 11 or 12 budgets). `params` is counted as `param_count` says: kaplan"
        " without the head, standard with it, attention with attention FLOP. Recipe: the paper's last experiment on RefinedWeb (tuned"
        " hyperparameters).",
    ),
    Table(
        file="porian-optima.csv",
        title=_PORIAN_TITLE,
        arxiv="2406.19146",
        licence="MIT",
        repository="formll/resolving-scaling-law-discrepancies",
        commit="0dc60d91b8a525858a3067fc9e4a46ff5374cc6f",
        path=_PORIAN_SOURCE,
        public=False,
        sha256="c3195fecf61b153ed47375422cf5369b60f419d8f2265ef5cec75fb6c8c99008",
        columns={"params": "n", "tokens": "t", "corpus": "dataset"},
        where="n > 0",
        recipe_where=_PORIAN_HEADLINE.replace("dataset", "corpus"),
        remark="The optimum of every isoFLOP curve of porian-isoflops; four budgets without an optimum are left out. The _std columns are"
        " bootstrap scatter, of sizes in logarithms.",
    ),
    Table(
        file="porian-published-fits.csv",
        title=_PORIAN_TITLE,
        arxiv="2406.19146",
        licence="MIT",
        repository="formll/resolving-scaling-law-discrepancies",
        commit="0dc60d91b8a525858a3067fc9e4a46ff5374cc6f",
        path=_PORIAN_SOURCE,
        public=False,
        sha256="b55ed036f4761cf039fe4f3dc38a28575f2959ffc7c9c1fb836ff9dce4638978",
        output=None,
        remark="Constants that the authors fitted, not runs: N* = n_coef C^n_exponent, L* = E + A C^-alpha. 18 of the 60 loss fits stand at the"
        " start of the search (alpha = 0.1, E = 1).",
    ),
    Table(
        file="gadre-overtraining.csv",
        title="Language models scale reliably with over-training and on downstream tasks",
        arxiv="2403.08540",
        licence="MIT",
        repository="mlfoundations/scaling",
        commit="a003c4913793ac2ae7ef87b28ecb562955d026d5",
        path="exp_data/models/*.json",
        public=False,
        sha256="6d037528b07b10cfdeb45d027915566d5b8cb6b6e1edb445f5a229f1e6fe5304",
        columns={
            "params": "N",
            "non_embedding_params": "N_no_embed",
            "tokens": "D",
            "flops": "flops_6ND",
            "loss": "loss_c4_val",
            "corpus": "dataset",
            "learning_rate": "lr",
        },
        recipe_where="cc_mult = 1 and params < 5e8",
        recipe_also="cc_mult = 16 and params < 2e7",
        remark="Three training corpora; `loss` is on C4, other validation sets stand beside it with 95% bounds. Recipe, per corpus: four sizes at"
        " 20 tokens a parameter and the smallest at 320.",
    ),
    Table(
        file="datablations-c4.csv",
        title="Scaling Data-Constrained Language Models",
        arxiv="2305.16264",
        licence="Apache-2.0",
        repository="huggingface/datablations",
        commit="13701315b163f1c54642b94ad237b2699187c3ee",
        path="plotstables/return_alloc.ipynb",
        public=False,
        sha256="48eb6a7a451e3dc158a31dd72e18b32bff8e7063030e674d846a2a4ac33e2e99",
        columns={"params": "N", "tokens": "D", "unique_tokens": "U_D", "loss": "val_loss"},
        recipe_where="seed != 1 and seed != 2 and seed != 3 and seed != 4",
        remark="Up to 9,000 epochs on up to 178e9 unique tokens of C4, with runs that diverged or overfit (losses up to 11). Recipe: without the"
        " 64 repeats by seed (229 rows). The paper's published constants do not reproduce these losses.",
    ),
    Table(
        file="olmo-ladder.csv",
        title="Establishing Task Scaling Laws via Compute-Efficient Model Ladders",
        arxiv="2412.04403",
        licence="Apache-2.0",
        repository="allenai/OLMo-ladder",
        commit="67a3f440f787d020da35e3ca8eeae475fae754f5",
        path="src/scripts/paper/data/ladder-runs/*xC*.csv",
        public=False,
        sha256="325a6d8d84d5906cb48201362a112caff797ba12b276c333381397f52605f486",
        columns={
            "non_embedding_params": "N_nonemb",
            "tokens": "throughput/total_tokens",
            "loss": "c4_en-validation/loss",
            "learning_rate": "learning_rate_peak",
        },
        products={"flops": ("flops_per_token", "throughput/total_tokens")},
        where="N_nonemb > 0",
        needs=("non_embedding_params", "tokens"),
        recipe_where='xC != "0.5xC" and rerun = false',
        recipe_last=("run", "_step"),
        remark="Checkpoints of 30 runs; `loss` is on C4, ten other validation losses and task scores stand beside it. The 3B runs have no count"
        " of parameters in the source and are left out. Recipe: final checkpoints of 1 to 10 times Chinchilla (16 points); the authors'"
        " moving average over 5 checkpoints is not applied.",
    ),
    Table(
        file="clark-routed-curves.csv",
        title="Unified Scaling Laws for Routed Language Models",
        arxiv="2202.01169",
        licence="CC-BY-4.0",
        repository="google-deepmind/scaling_laws_for_routing",
        commit="42da0c392b127df2c01fa7b705f72396050d05e5",
        path="data/curves.csv.gz",
        sha256="a93902c7cc30ff44e8aac701ee3a8ffec33be3417a85abefa88f7d4c8a50973d",
        packed_sha256="c03e7531add85e594f368d33bac4a0220280be858a7ed12d147cf73af6a3819f",
        columns={
            "params": "dense_parameter_count",
            "active_params": "dense_parameter_count",
            "total_params": "total_parameter_count",
            "experts": "num_experts",
            "experts_per_token": "k",
            "router": "router_type",
            "loss": "loss_validation",
        },
        where="loss_validation > 0",
        needs=("active_params", "experts"),
        recipe_where="routing_frequency = 0.5 and k = 1 and seed = 42",
        recipe_last=("hyper_id", "step"),
        remark="Learning curves of 223 runs on one budget of tokens; 8 rows without a loss are left out. `params` and `active_params` are those"
        " of the dense model of the same shape, N in the paper's law. Recipe: the last step, every second layer routed, one expert a token; fit the dense runs"
        " with those of one `router`.",
    ),
    Table(
        file="steplaw-dense.csv",
        title=_PREDICTABLE_SCALE,
        arxiv="2503.04715",
        licence="none",
        repository="step-law/steplaw",
        commit="32a8f4cc50247695fb56cc6c9117abdf67c97763",
        path="data/dense_lr_bs_loss.csv",
        sha256="9e46181076c04d450294d75dfe6f72adc416e231e154a07b337e378f9410002c",
        columns={
            "non_embedding_params": "N",
            "tokens": "D",
            "loss": "smooth loss",
            "loss_last_step": "loss",
            "learning_rate": "lr",
            "batch_size": "bs",
        },
        needs=("non_embedding_params", "tokens"),
        recipe_best=("non_embedding_params", "tokens"),
        remark="A grid of learning rates and batch sizes (in sequences of 2048 tokens) at 17 points; `loss` is the smoothed training loss. N leaves"
        " out embeddings. Recipe: the best setting of each point (17 rows).",
    ),
    Table(
        file="steplaw-moe.csv",
        title=_PREDICTABLE_SCALE,
        arxiv="2503.04715",
        licence="none",
        repository="step-law/steplaw",
        commit="32a8f4cc50247695fb56cc6c9117abdf67c97763",
        path="data/moe_lr_bs_loss.csv",
        sha256="653d585244a7b227423007e8b796bc16d76f6d24eb87b1919b8f048a91897b92",
        columns={
            "non_embedding_params": "N",
            "active_params": "Na",
            "tokens": "D",
            "experts": "nume",
            "experts_per_token": "topk",
            "loss": "smooth loss",
            "loss_last_step": "loss",
            "learning_rate": "lr",
            "batch_size": "bs",
        },
        products={"flops": ("M", "D")},
        needs=("active_params", "tokens", "experts"),
        recipe_best=("moe_name", "tokens"),
        remark="Mixtures of experts of about 2.15e9 parameters, all and active ones counted without embeddings; flops = M D, where M is FLOP a"
        " token with attention. `loss` is the smoothed training loss. Recipe: the best setting of each architecture and number of tokens.",
    ),
    Table(
        file="vocab-sailsg.csv",
        title="Scaling Laws with Vocabulary: Larger Models Deserve Larger Vocabularies",
        arxiv="2407.13623",
        licence="none",
        repository="sail-sg/scaling-with-vocab",
        commit="6701cc202af8b075a46eef8e9d263b3f2ebe012c",
        path="exp_data.csv",
        sha256="6571e877469a44cb50b2d05e1fa485587369ee1c47941a4b3b2bfef80496f1b2",
        columns={
            "non_vocab_params": "Non_vocab_parameters",
            "vocab": "vocab_size",
            "characters": "num_characters",
            "flops": "FLOPs",
            "loss_unigram_normalised": "Lossu",
        },
        products={"vocab_params": ("vocab_size", "embed_dim")},
        needs=("non_vocab_params", "vocab_params", "vocab", "characters"),
        output="loss_unigram_normalised",
        recipe_where="flops >= 2.18e17",
        remark="Losses less the loss of a unigram model, so negative, and never to be compared with `loss`. Data are counted in characters;"
        " vocab_params = vocab embed_dim. Recipe: without the smallest budgets.",
    ),
    Table(
        file="revisiting-lang.csv",
        title="Revisiting Neural Scaling Laws in Language and Vision",
        arxiv="2209.06640",
        licence="MIT",
        repository="IBM/ColPret",
        commit="16f23bbe054277ddc4afd07a972dd7cfbe3f48c3",
        path="aggregated_eval/revisiting_lang.csv",
        sha256="63c346db00a66b692e1ea9a0f71a2f2b267e55f74be5b863a92e199dffbf0983",
        columns={"domain": "Domain", "task": "Task", "model": "Model", "examples": "Seen Examples", "loss": "Loss"},
        needs=("examples",),
        recipe_where="Training = 1",
        remark="Learning curves, one for each task and model; select one. The losses are scaled below 1 by a rule that the source does not give."
        " Recipe: the rows to fit (Training = 1); the others test the extrapolation. The licence is that of the collection.",
    ),
    Table(
        file="bnsl-4digit-addition.csv",
        title="Broken Neural Scaling Laws",
        arxiv="2210.14891",
        licence="none",
        repository="ethancaballero/broken_neural_scaling_laws",
        commit="ffa608f7ca7910b6f6bcbd39915491353ad5d600",
        path="arrays in the fit script",
        public=False,
        sha256="72996edb01fe2e7581abb89dbf2c47c555afff187b1a0b75731c515362974b76",
        columns={"examples": "dataset_size", "loss": "test_loss"},
        needs=("examples",),
        recipe_where='split = "train"',
        remark="Addition of four digits, test loss by number of training examples. Recipe: the first 14 points; the last 3 test the extrapolation.",
    ),
    Table(
        file="obs-scaling-base.csv",
        title="Observational Scaling Laws and the Predictability of Language Model Performance",
        arxiv="2405.10938",
        licence="Apache-2.0",
        repository="ryoungj/ObsScaling",
        commit="4d6e1e43fd2635d04654aa77d1df9d5266ea0382",
        path="eval_results/base_llm_benchmark_eval.csv",
        sha256="511996815735a4c46251dc585dcc525e370d148201f86561e6f927f9df2d0db8",
        columns={
            "model": "Model",
            "family": "Model Family",
            "params": "Model Size (B)",
            "tokens": "Pretraining Data Size (T)",
            "flops": "FLOPs (1E21)",
        },
        units={"params": "billions", "tokens": "trillions", "flops": "zettaflops"},
        output=None,
        remark="Scores of base models on eight benchmarks, between 0 and 1, and no losses. 25 models have no count of tokens, and the 627e12 of"
        " cerebras/btlm-3b-8k-base look a thousand times too many.",
    ),
    Table(
        file="sloth-leaderboard-v2.csv",
        title="Sloth: scaling laws for LLM skills to predict multi-benchmark performance across families",
        arxiv="2412.06540",
        licence="MIT",
        repository="felipemaiapolo/statistical-scaling-law",
        commit="ec189676fb1ff21115536651f46bf9d279578cb8",
        path="data/df_full_v2.csv",
        sha256="cb509883cf57c8bd9bd19a0c6ef4cc331d1348e0ca703a001dc24de2743fb4d6",
        columns={"params": "size"},
        units={"params": "billions", "tokens": "trillions", "flops": "zettaflops"},
        output=None,
        remark="Scores of base and instruction-tuned models on the six benchmarks of the Open LLM Leaderboard 2, between 0 and 1, and no losses.",
    ),
]
TABLES = {table.name: table for table in _ALL}
