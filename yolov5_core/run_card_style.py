"""What a run card's page needs beyond the style of all reports."""

CARD_STYLE = """
:root { --a: #2467b0; --b: #c2410c; --c: #7a858f; --same-ground: #eceff1 }
@media (prefers-color-scheme: dark) { :root { --a: #79b0ee; --b: #fb923c; --c: #8b96a0;
  --same-ground: #2b3137 } }
a { color: var(--a); text-decoration-thickness: 1px; text-underline-offset: 2px }
h1 { font-size: 27px; margin: 2px 0 6px; max-width: 36em }
.verdict { border-left: 6px solid var(--line); padding: 2px 0 4px 16px }
.verdict.stop, .verdict.warn, .verdict.pass, .verdict.same { background: none;
  color: var(--ink) }
.verdict.stop { border-color: var(--stop) } .verdict.warn { border-color: var(--warn) }
.verdict.pass { border-color: var(--pass) } .verdict.same { border-color: var(--c) }
.up { color: var(--pass) } .down { color: var(--stop) }
.change { font-variant-numeric: tabular-nums; font-size: 13px }
.fault { border: 1px solid var(--stop); border-left-width: 5px; border-radius: 8px;
  background: var(--card); padding: 12px 16px; margin: 14px 0 }
.fault.soft { border-color: var(--warn) }
.fault h3 { margin-top: 12px } .fault > :first-child { margin-top: 0 }
.fault p { max-width: none }
.message { white-space: pre-wrap; overflow-wrap: anywhere; font-weight: 550; margin: 4px 0 8px }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 2px 0 8px; padding: 6px 10px;
  border-radius: 6px; background: var(--same-ground); font-size: 13px }
code { font-size: 12.5px; overflow-wrap: anywhere }
.notices { list-style: none; padding: 0; margin: 14px 0 }
.notices li { padding: 5px 0 5px 12px; border-left: 4px solid var(--line); margin: 5px 0 }
.notices .stop { border-color: var(--stop); background: none; color: inherit }
.notices .warn { border-color: var(--warn); background: none; color: inherit }
svg path.a { stroke: var(--a) } svg path.b { stroke: var(--b) } svg path.c { stroke: var(--c) }
svg circle.a { fill: var(--a) } svg circle.b { fill: var(--b) } svg circle.c { fill: var(--c) }
svg path.failed { stroke: var(--stop); stroke-width: 1.8 }
svg .marked { stroke: var(--pale); stroke-dasharray: 3 3 }
.key.a { border-bottom: 3px solid var(--a) } .key.b { border-bottom: 3px solid var(--b) }
.key.c { border-bottom: 3px solid var(--c) }
.keys { font-size: 12.5px; color: var(--pale) } .keys .key { margin-left: 0 }
.keys span + .key { margin-left: 12px }
.track { position: relative; height: 14px; min-width: 240px; background: var(--same-ground);
  border-radius: 3px; overflow: hidden }
.track i { position: absolute; top: 0; bottom: 0; min-width: 2px; background: var(--a) }
.track i.lost { background: repeating-linear-gradient(135deg, var(--stop) 0 3px,
  transparent 3px 6px) }
.pictures { grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)) }
.share { position: relative; height: 9px; min-width: 90px; background: var(--same-ground);
  border-radius: 3px }
.share i { position: absolute; inset: 0 auto 0 0; background: var(--a); border-radius: 3px }
.share b { position: absolute; top: -2px; bottom: -2px; width: 2px; background: var(--ink) }
table.full { width: 100% }
.nowrap { white-space: nowrap }
details > summary.line { font-weight: 600 }
@media (max-width: 700px) { h1 { font-size: 22px } body { padding: 16px 12px 40px } }
@media print { .track, .share, .badge { print-color-adjust: exact } }
"""
