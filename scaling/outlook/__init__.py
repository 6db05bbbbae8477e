"""Where a penalty leads: 1e21 to 1e29 FLOP under several forms of law, and what each band is made of."""
