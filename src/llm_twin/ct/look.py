"""How a report looks: one style sheet for light and dark."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --faint: #d8dde3;
  --muted: #57606a; --candidate: #1a5fb4; --production: #b35900; --neither: #6b7280;
  --better: #1a7f37; --worse: #c01c28; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #15181c; --faint: #363c44;
  --muted: #a3acb6; --candidate: #78aef5; --production: #f0a04b; --neither: #9aa3af;
  --better: #57c274; --worse: #ff7b7f; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 760px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h1, li, td, th, figcaption { overflow-wrap: break-word; }
figure { margin: 1.2rem 0 .4rem; } figcaption { color: var(--muted); font-size: .9rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--muted); fill: none; } svg .grid { stroke: var(--faint); fill: none; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg rect, svg circle { stroke: none; }
svg .candidate { fill: var(--candidate); } svg .line.candidate { stroke: var(--candidate); }
svg .production { fill: var(--production); } svg .line.production { stroke: var(--production); }
svg .neither { fill: var(--neither); } svg .line.neither { stroke: var(--neither); }
svg .better { fill: var(--better); } svg .line.better { stroke: var(--better); }
svg .worse { fill: var(--worse); } svg .line.worse { stroke: var(--worse); }
svg .line.line { fill: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .4rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0;
  border-bottom: 1px solid var(--faint); font-variant-numeric: tabular-nums; }
tbody th { font-weight: normal; } thead th { color: var(--muted); font-weight: normal; }
details { margin-top: 1.5rem; } summary { cursor: pointer; }
"""
