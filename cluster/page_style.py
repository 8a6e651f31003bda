"""The look of every report: one style sheet, light and dark, that fetches nothing.

Colours are named by what they mean, each with a value for light and for dark; text on them keeps a contrast of at
least 4.5 to 1 in both. Charts and tables take their colours from the same names.
"""

from __future__ import annotations

STYLE = """
:root {
  --paper: #ffffff; --panel: #f5f7fa; --line: #d5dbe5; --ink: #1b2330; --soft: #566074; --link: #1d57b0;
  --bar: #6b8fc9; --bar-edge: #47689f; --cut: #d08a2e; --target: #cdebd6; --target-edge: #157a43;
  --special: #e4e0f5; --odd: #8a3b7d; --second: #b4521a;
  --good: #157a43; --good-back: #e5f5ea; --error: #b0241c; --error-back: #fdecea;
  --warning: #805300; --warning-back: #fff3d9; --note: #35568a; --note-back: #eaf0fa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #11151b; --panel: #1a2029; --line: #333d4b; --ink: #e3e8f0; --soft: #9ca8ba; --link: #8ab8ff;
    --bar: #4f77b8; --bar-edge: #86abe6; --cut: #c9863a; --target: #1a4a30; --target-edge: #62d391;
    --special: #3a3358; --odd: #e5a3d8; --second: #f0a05c;
    --good: #6fd69a; --good-back: #15291e; --error: #ff9087; --error-back: #331917;
    --warning: #f0c264; --warning-back: #2e2513; --note: #a3c4f7; --note-back: #182436;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
h1 { margin: 0 0 1rem; font-size: 2rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 .25rem; font-size: 1.35rem; line-height: 1.3; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1.02rem; }
p { margin: .4rem 0; }
a { color: var(--link); }
code, pre, .text, .tokens { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { font-size: .88em; overflow-wrap: anywhere; }
td small { display: block; }
td code { white-space: nowrap; }
h3 small { font-weight: 400; }
small, .soft { color: var(--soft); font-size: .875rem; }
.kind { margin: 0; color: var(--soft); font-size: .9rem; letter-spacing: .06em; text-transform: uppercase; }
.lead { color: var(--soft); margin: 0 0 1rem; max-width: 48rem; }
section { margin-top: 3rem; padding-top: 1.5rem; border-top: 1px solid var(--line); scroll-margin-top: 1rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1.5rem 0 0; padding: 0; list-style: none; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .875rem;
  overflow-wrap: anywhere; }

.banner { display: flex; gap: .9rem; padding: 1rem 1.1rem; border-radius: .5rem; border: 1px solid; margin: 1rem 0; }
.banner strong { display: block; font-size: 1.1rem; }
.banner span { color: var(--ink); }
.mark { flex: none; width: 1.7rem; height: 1.7rem; border: 2px solid; border-radius: 50%; text-align: center;
  font-weight: 700; line-height: 1.5rem; color: inherit !important; }
.badge { display: inline-block; padding: 0 .55rem; border-radius: 1rem; border: 1px solid; font-size: .85rem;
  font-weight: 600; white-space: nowrap; }
.good { color: var(--good); background: var(--good-back); }
.error { color: var(--error); background: var(--error-back); }
.warning { color: var(--warning); background: var(--warning-back); }
.note { color: var(--note); background: var(--note-back); }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1rem 0 0;
  padding: 0; list-style: none; }
.tiles li { padding: .7rem .9rem; background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; }
.tiles b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles small { display: block; }

.wide { overflow-x: auto; margin: .75rem 0; }
.wide table:not(.bars) { min-width: 38rem; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; }
th { text-align: left; color: var(--soft); font-weight: 600; font-size: .85rem; vertical-align: bottom; }
th, td { padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); }
td { vertical-align: top; overflow-wrap: anywhere; min-width: 3.5rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.number { overflow-wrap: normal; }
.facts { margin: .75rem 0; }
.facts div { display: grid; grid-template-columns: 9rem 1fr; gap: .25rem 1rem; padding: .4rem 0;
  border-bottom: 1px solid var(--line); }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }

details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--link); }
.code-point { color: var(--odd); border: 1px solid; border-radius: .25rem; padding: 0 .2rem; font-size: .8em;
  white-space: nowrap; }

.finding { border: 1px solid var(--line); border-left: .3rem solid var(--edge); border-radius: .4rem;
  padding: .9rem 1.1rem; margin: 1rem 0; }
.finding h3 { display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: center; margin: 0 0 .4rem; }
.finding.error, .finding.warning, .finding.note { background: none; color: inherit; }
.finding.error { --edge: var(--error); }
.finding.warning { --edge: var(--warning); }
.finding.note { --edge: var(--note); }
.remedy::before { content: "→ "; color: var(--soft); }
.example { background: var(--panel); border-radius: .4rem; padding: .6rem .9rem; margin: .6rem 0; font-size: .92rem; }
.place { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
.turn { display: grid; grid-template-columns: 5.5rem 1fr; gap: 0 .8rem; margin: .3rem 0; }
.turn dt, .role { color: var(--soft); font-size: .85rem; }
.turn dd { margin: 0; min-width: 0; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .86rem; }
.left-out { color: var(--soft); font-style: italic; }
.like { border-top: 1px dashed var(--line); margin-top: .5rem; padding-top: .4rem; }

.bars td { border: 0; padding: .2rem .9rem .2rem 0; vertical-align: middle; }
.bars td:first-child { width: 28%; min-width: 7rem; }
.bars td:last-child { padding-right: 0; width: 1%; }
.bars svg { display: block; width: 100%; min-width: 8rem; height: 1rem; }
.chart { display: block; width: 100%; max-width: 56rem; height: auto; min-width: 30rem; }
.chart text { fill: var(--soft); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.chart .grid { stroke: var(--line); } .chart .axis { stroke: var(--soft); }
.bar { fill: var(--bar); } .bar.beyond { fill: var(--cut); } .track { fill: var(--panel); }
.marker { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 5 3; }
.chart .marked { fill: var(--ink); font-weight: 600; }

.spans td { padding-top: 0; padding-bottom: 0; } .spans .first td { padding-top: .7rem; }
.spans td:first-child { text-align: right; } .spans td code { float: left; margin-right: .8rem; }
.spans td:nth-child(2) { padding-left: .5rem; padding-right: 1.4rem; }
.spans svg { height: 1.55rem; overflow: visible; }
.spans td small { display: inline; white-space: nowrap; }
.spans .grid, .lines .grid { stroke: var(--line); }
.spans text, .lines text, .ticks text { fill: var(--soft);
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
.whisker { stroke: var(--bar-edge); stroke-width: 2; }
.dot { fill: var(--bar-edge); stroke: var(--bar-edge); stroke-width: 2; } .dot.hollow { fill: var(--paper); }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.75rem 2rem;
  margin-top: 1.5rem; }
.curve { margin: 0; min-width: 0; break-inside: avoid; }
.curve figcaption { font-size: .9rem; color: var(--soft); } .curve figcaption b { color: var(--ink); }
.plot { display: flex; margin-top: .35rem; } .plot > svg { display: block; }
.ticks { flex: none; } .lines { min-width: 0; overflow: visible; }
.lines .axis { stroke: var(--soft); }
.lines .marked { fill: var(--ink); font-weight: 600; stroke: var(--paper); stroke-width: 4; paint-order: stroke; }
.curve polyline { fill: none; stroke: var(--bar-edge); stroke-width: 2; vector-effect: non-scaling-stroke;
  stroke-linejoin: round; }
.curve polyline.faint { stroke: var(--bar); stroke-width: 1; opacity: .65; }
.curve polyline.second { stroke: var(--second); }
.curve circle { fill: var(--bar-edge); } .curve circle.second { fill: var(--second); }
.trials circle.full { fill: var(--bar-edge); } .trials circle.best { fill: var(--second); }
.trials circle.hollow { fill: var(--paper); stroke: var(--bar-edge); stroke-width: 1.5; }
.trials .cross { stroke: var(--error); stroke-width: 2; fill: none; }
.parallel polyline { fill: none; stroke: var(--bar-edge); stroke-width: 1.5; opacity: .55; }
.parallel .hollow { stroke-dasharray: 4 3; } .parallel .cross { stroke: var(--error); stroke-dasharray: 1 3; }
.parallel .best { stroke: var(--second); stroke-width: 3; opacity: 1; }
.parallel text { stroke: var(--paper); stroke-width: 3; paint-order: stroke; }
.keys { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; margin: .35rem 0 0; padding: 0 0 0 54px; list-style: none;
  font-size: .85rem; color: var(--soft); }
.keys svg { vertical-align: -2px; }

.tally { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .75rem 0; padding: 0; list-style: none; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: .5rem 1.5rem;
  margin-top: .6rem; padding-top: .5rem; border-top: 1px dashed var(--line); }
.answers p { margin: 0 0 .2rem; }
.turn dd > div + div { border-top: 1px dotted var(--line); }
.wide table.confusion { min-width: 0; width: auto; font-size: .85rem; font-variant-numeric: tabular-nums; }
.confusion th, .confusion td { border: 1px solid var(--line); padding: .2rem .35rem; min-width: 1.9rem; }
.confusion td { text-align: center; vertical-align: middle; color: var(--ink); }
.confusion th { white-space: nowrap; } .confusion tbody th { position: sticky; left: 0; background: var(--paper); }
.confusion thead th { text-align: center; vertical-align: bottom; }
.confusion thead th:first-child { text-align: left; }
.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 12rem; }
.confusion .hit { background: color-mix(in srgb, var(--target-edge) var(--shade, 0%), var(--paper)); }
.confusion .miss { background: color-mix(in srgb, var(--cut) var(--shade, 0%), var(--paper)); }
.shade-1 { --shade: 8%; } .shade-2 { --shade: 16%; } .shade-3 { --shade: 24%; } .shade-4 { --shade: 33%; }
.shade-5 { --shade: 42%; }

.tokens { line-height: 2.05; font-size: .9rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: .5rem; padding: .9rem 1rem; overflow-wrap: anywhere; }
.tokens span, .tokens mark, .legend span, .legend mark { white-space: pre-wrap; padding: .1rem 0;
  border-bottom: 3px solid transparent; color: inherit; background: none; }
.tokens .shade, .legend .shade { background: color-mix(in srgb, var(--soft) 13%, transparent); }
.tokens mark, .legend mark { background: var(--target); border-bottom-color: var(--target-edge); font-weight: 600; }
.tokens mark.shade { background: color-mix(in srgb, var(--target-edge) 30%, var(--target)); }
.tokens .special, .legend .special { outline: 1px solid var(--soft); outline-offset: -2px; border-radius: .3rem;
  padding: .1rem .3rem; font-style: italic; margin: 0 1px; background: var(--special); }
.tokens mark.special { background: var(--target); outline-color: var(--target-edge); }
.tokens i, .legend i { font-style: normal; font-weight: 400; color: var(--soft); }
.tokens > .left-out { border: 0; white-space: normal; }
.tokens .hidden, .legend .hidden { color: var(--odd); font-style: italic; }
.legend { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; margin: .8rem 0; font-size: .9rem; color: var(--soft); }
.legend mark, .legend .special, .legend .plain { color: var(--ink); padding: 0 .35rem; }

form { display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: end; margin: .9rem 0; }
form .answers { flex: 1 0 100%; border: 0; margin: 0; } form .answers label { display: inline; margin-right: 1rem; }
label { display: grid; gap: .15rem; font-size: .875rem; color: var(--soft); } label.whole { flex: 1 0 100%; }
input, textarea, button { font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--soft);
  border-radius: .4rem; padding: .35rem .6rem; }
input[type=number] { width: 7.5rem; } button { background: var(--panel); cursor: pointer; font-weight: 600; }

@media (max-width: 40rem) {
  body { padding-top: 1.25rem; }
  .facts div, .turn { grid-template-columns: 1fr; gap: 0; }
  .finding { padding: .7rem .8rem; }
  .spans td code { float: none; display: block; margin: 0; text-align: left; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; } nav { display: none; }
  .finding, .example, .chart { break-inside: avoid; }
}
"""
