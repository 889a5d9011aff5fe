"""How the page looks, in light and in dark; colours never stand alone, each has a mark and a word."""

STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1a1f26;--muted:#59636e;--line:#d8dee4;--ok:#1f883d;--okbg:#e6f5ea;
--warn:#8a5a00;--warnbg:#fdf3d7;--bad:#b42318;--badbg:#fdeceb;--none:#c3cad2;--bar:#5b7fb5}
@media (prefers-color-scheme:dark){:root{--bg:#0e1217;--card:#161b22;--ink:#e6edf3;--muted:#9aa5b1;--line:#2c343d;
--ok:#4cc26a;--okbg:#12301b;--warn:#e3b341;--warnbg:#33280b;--bad:#ff8078;--badbg:#3b1513;--none:#3d4650;--bar:#6f9bd8}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main,footer{max-width:1080px;margin:0 auto;padding:0 16px}
header{padding-top:24px}
h1{font-size:22px;margin:0}
h2{font-size:18px;margin:32px 0 10px}
h3{font-size:15px;margin:0 0 4px;overflow-wrap:anywhere}
p{margin:0 0 6px;overflow-wrap:anywhere}
.where{font-family:ui-monospace,monospace;font-size:13px;color:var(--muted)}
.verdict{margin:10px 0 6px}
.verdict .badge{font-size:16px;padding:5px 12px;white-space:normal}
.muted,footer{color:var(--muted);font-size:13px}
.badge{display:inline-block;border-radius:6px;padding:0 7px;font-weight:600;font-size:13px;margin:1px 0;
white-space:nowrap}
.badge.ok{color:var(--ok);background:var(--okbg)}
.badge.warn{color:var(--warn);background:var(--warnbg)}
.badge.bad{color:var(--bad);background:var(--badbg)}
.key span{margin-left:10px;font-size:15px}.key span:first-child{margin-left:0}
.key .ok{color:var(--ok)}.key .warn{color:var(--warn)}.key .bad{color:var(--bad)}.key .none{color:var(--muted)}
article,details{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px;
margin:0 0 10px}
article p:last-child{margin-bottom:0}
.incident{border-left:4px solid var(--bad)}
summary{cursor:pointer;padding:2px 0}
.year{display:flex;flex-wrap:wrap;gap:6px 8px;margin:8px 0 4px}
.year svg{flex:1 1 312px;min-width:0;max-width:480px}
svg{display:block;width:100%}
svg text{fill:var(--muted);font-size:10px}
svg .ok{fill:var(--ok)}svg .warn{fill:var(--warn)}svg .none{fill:var(--none)}
svg .cross{stroke:var(--bad);stroke-width:3;fill:none;stroke-linecap:round;pointer-events:all}
.bars{display:flex;flex-wrap:wrap;gap:8px 24px;margin-top:10px}
figure{flex:1 1 280px;margin:0;min-width:0}
figure svg{height:40px;border-bottom:1px solid var(--line)}
rect{fill:var(--bar)}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
details .scroll{border:0;border-top:1px solid var(--line);border-radius:0;margin-top:8px}
table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--muted);font-weight:600;white-space:nowrap}
tbody tr:last-child td{border-bottom:0}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
time,td:has(.badge){white-space:nowrap}
.why{white-space:normal}
td p{margin:2px 0 0}
.why{color:var(--bad);min-width:220px;max-width:56ch}
.id{font-family:ui-monospace,monospace;font-size:11px;color:var(--muted);white-space:nowrap}
.sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
:focus-visible{outline:2px solid var(--bar);outline-offset:2px}
footer{padding-top:20px;padding-bottom:32px}
@media print{body{background:#fff}.scroll{overflow:visible}}
"""
