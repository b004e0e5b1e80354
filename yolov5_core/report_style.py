"""The look of a report's page: light and dark, on paper, no scripts, nothing fetched."""

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #fff; --ink: #1f2429; --pale: #66707a;
  --line: #e2e5e8; --train: #9dbfe3; --val: #c2410c; --previous: #1f2429; --stop: #b42318;
  --stop-ground: #fdecea; --warn: #8a5300; --warn-ground: #fdf1d8; --pass: #1b6e3c;
  --pass-ground: #e4f4ea }
@media (prefers-color-scheme: dark) { :root { --ground: #15181b; --card: #1d2125; --ink: #e6e8ea;
  --pale: #9aa4ad; --line: #343a40; --train: #3f6a96; --val: #fb923c; --previous: #e6e8ea;
  --stop: #ff9d94; --stop-ground: #46201d; --warn: #f6c667; --warn-ground: #3f3013;
  --pass: #86d8a4; --pass-ground: #17381f } }
@media print { :root { --ground: #fff } body { max-width: none } .card { break-inside: avoid }
  details::details-content { content-visibility: visible; block-size: auto } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1120px; padding: 24px 20px 60px; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { font-size: 25px; line-height: 1.25; margin: 2px 0 4px; overflow-wrap: anywhere }
h2 { font-size: 18px; margin: 36px 0 4px }
h3 { font-size: 14px; margin: 0 0 4px }
p { margin: 4px 0 10px; max-width: 80ch }
.pale, .over { color: var(--pale) }
.over { font-size: 13px }
.badge { display: inline-block; padding: 1px 9px; border-radius: 4px; font-size: 13px;
  font-weight: 650; white-space: nowrap }
.stop { color: var(--stop); background: var(--stop-ground) }
.warn { color: var(--warn); background: var(--warn-ground) }
.pass { color: var(--pass); background: var(--pass-ground) }
.grid { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr));
  margin: 14px 0 }
.tiles { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; min-width: 0 }
.gate { border-left-width: 5px; background: var(--card); color: var(--ink) }
.gate.stop, .gate.warn { margin: 10px 0; display: grid; gap: 6px 26px;
  grid-template-columns: minmax(220px, 3fr) 8fr }
.gate ul { margin-top: 0 } .gate p { margin: 6px 0 0 }
.gate.stop { border-left-color: var(--stop) } .gate.warn { border-left-color: var(--warn) }
.gate.pass { border-left-color: var(--pass) }
.gate .head { display: flex; justify-content: space-between; align-items: baseline }
.big { font-size: 25px; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums }
.meter { position: relative; height: 8px; border-radius: 4px; background: var(--line);
  margin: 6px 0; min-width: 80px; overflow: hidden }
.meter i { position: absolute; inset: 0 auto 0 0; background: var(--train) }
.meter i.over-limit { background: var(--stop) }
.meter b { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--ink) }
ul { margin: 4px 0; padding-left: 18px } li { margin: 2px 0; overflow-wrap: anywhere }
table { border-collapse: collapse; min-width: 62%; font-size: 14px; margin: 6px 0 }
table.listed { width: 100%; table-layout: fixed; font-size: 13px }
.listed th:nth-child(2) { width: 40% }
th { text-align: left; font-weight: 600; color: var(--pale); font-size: 13px;
  vertical-align: bottom }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line) }
td { vertical-align: top; overflow-wrap: break-word; unicode-bidi: isolate }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.wide { overflow-x: auto }
details { border-bottom: 1px solid var(--line); padding: 5px 0 }
summary { cursor: pointer; display: grid; gap: 12px; align-items: baseline;
  grid-template-columns: 1em 3.5em 13em 9.5em 1fr }
summary::before { content: "\\25b8"; color: var(--pale) }
details[open] > summary::before { content: "\\25be" }
summary.line { grid-template-columns: 1em 1fr }
summary .badge { justify-self: start }
details > :not(summary), .none { margin-left: 27px }
.listed tr:last-child td { border-bottom: 0 }
.bars { width: 220px }
.bars i { display: block; height: 5px; margin: 3px 0; background: var(--train); min-width: 1px }
.bars i + i { background: var(--val) }
svg { display: block; width: 100%; height: auto; overflow: visible }
svg text { font-size: 10.5px; fill: var(--pale) }
svg rect.train { fill: var(--train) } svg rect.hover { fill: transparent }
svg rect.hover:hover { fill: var(--pale); fill-opacity: .18 }
svg path { fill: none; stroke-width: 1.8 } svg path.val { stroke: var(--val) }
svg path.previous { stroke: var(--previous); stroke-width: 1.3; stroke-dasharray: 4 3 }
svg .axis { stroke: var(--line) }
.key { display: inline-block; width: 18px; height: 10px; margin: 0 5px 0 14px;
  vertical-align: baseline }
.key.train { background: var(--train) } .key.val { border-bottom: 3px solid var(--val) }
.key.previous { border-bottom: 2px dashed var(--previous) }
figure { margin: 0 } figure img { width: 100%; display: block; border-radius: 6px }
figcaption { font-size: 12.5px; color: var(--pale); overflow-wrap: anywhere; margin-top: 3px }
@media (max-width: 700px) { summary { display: flex; flex-wrap: wrap }
  .gate.stop, .gate.warn { grid-template-columns: 1fr } }
"""
