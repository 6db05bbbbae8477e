// What the page does without asking the server: slider and text box follow each other, the address keeps the state, figures are saved.
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.isoloss = {
  address: () => ({ search: window.location.search, narrow: window.innerWidth < 832 }),

  keep: (query) => {
    if (typeof query === "string") {
      window.history.replaceState(null, "", window.location.pathname + (query ? "?" + query : ""));
    }
    return window.dash_clientside.no_update;
  },

  // A slider moves in log10 and writes two digits; its end means "unlimited" for unique tokens, its start "none" for served ones.
  slide: (place, text, end) => {
    const none = window.dash_clientside.no_update;
    const moved = window.dash_clientside.callback_context.triggered_id;
    if (!moved) {
      return [none, none];
    }
    if (moved.type === "slider") {
      const name = moved.name;
      if (name === "unique_tokens" && Number(place) >= end) {
        return [none, "unlimited"];
      }
      const value = Number(Math.pow(10, Number(place)).toPrecision(2));
      const whole = name.endsWith("_chips") ? Math.round(value) : value;
      return [none, value >= 1e6 ? whole.toExponential().replace("e+", "e") : String(whole)];
    }
    const value = text === "unlimited" ? Infinity : Number(text);
    return value > 0 ? [Math.min(Math.log10(value), end), none] : [none, none];
  },

  save: (clicks) => {
    const { figure, format } = window.dash_clientside.callback_context.triggered_id;
    const plot = document.querySelector(`#figure-${figure} .js-plotly-plot`);
    if (clicks && plot) {
      const title = plot.closest("figure").querySelector("h2").textContent;
      const settings = decodeURIComponent(window.location.search.slice(1)) || "default settings";
      const text = `<b>${title}</b><br><span style="font-size:11px">isoloss explore: ${settings}</span>`;
      const layout = { ...plot.layout, title: { text, x: 0.02, xanchor: "left" }, margin: { l: 20, r: 30, t: 100, b: 20 } };
      const size = { width: 900, height: 540, scale: format === "png" ? 2 : 1 };
      window.Plotly.downloadImage({ data: plot.data, layout }, { format, filename: `isoloss-${figure}`, ...size });
    }
    return window.dash_clientside.no_update;
  },
};
