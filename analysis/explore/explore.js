// The first tab. One state, one function that shows it; charts are Vega-Lite's, tables are the browser's own.
(() => {
const D = JSON.parse(document.getElementById("explored").textContent), $ = id => document.getElementById(id);
const el = (tag, attrs = {}, ...children) => {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) k.startsWith("on") ? e.addEventListener(k.slice(2), v) : v !== null && v !== false && e.setAttribute(k, v);
  e.append(...children.filter(c => c !== null));
  return e;
};
const T = { cell: 0, number: 1, origin: 2, state: 3, seed: 4, value: 5, acc: 6, epochs: 7, seconds: 8, reason: 9, point: 10, chosen: 11 };
for (const t of D.trials) t[T.point] = Object.fromEntries(D.cells[t[T.cell]].names.map((name, i) => [name, t[T.point][i]]).filter(([, v]) => v !== null));
const state = { group: 0, study: "", metric: D.metrics.length ? D.metrics[0][0] : "acc", rule: D.main, methods: "", cell: null, filter: "", state: "", origin: "", rows: 100, sort: null, up: true };
const metric = () => D.metrics.find(m => m[0] === state.metric) || ["acc", "accuracy", "%", true, true];
const several = D.studies.length > 1;
const label = c => several && state.study === "" ? `${c.method} · ${D.studies[c.study]}` : c.method;
const score = (c, m = metric(), rule = state.rule) => (c.scores[m[0]] || {})[m[3] ? rule : ""] || null;
const fixed = (v, m) => v === null ? "–" : m[2] === "%" || m[2] === "points" ? (m[2] === "points" && v > 0 ? "+" : "") + v.toFixed(1) : v >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(3));
const shown = (c, m = metric()) => { const s = score(c, m); return s ? fixed(s[0], m) + (s[1] !== null ? " ± " + fixed(s[1], m).replace("+", "") : "") + (c.star ? "*" : "") : "–"; };
// Of labels as they came the level is the kind, which the title ends with.
const where = (c, between) => { const t = D.groups[c.group].title; return t.endsWith(` ${c.level}`) ? t : t + between + c.level; };
const mine = () => D.cells.filter(c => c.group === state.group && (state.study === "" || c.study === +state.study)
  && state.methods.trim().split(/[\s,]+/).some(w => c.method.includes(w)));
const told = p => Object.entries(p).map(([k, v]) => `${k}=${typeof v === "number" ? +v.toPrecision(4) : v}`).join(" ");

// -- charts
const config = { font: "system-ui, sans-serif", background: null, view: { stroke: "#ddd" }, axis: { labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500, gridColor: "#eee" }, legend: { labelFontSize: 11, titleFontSize: 11, symbolStrokeWidth: 2 } };
const views = new Map();
function draw(place, description, spec, click) {
  views.get(place)?.finalize();
  views.delete(place);
  return vegaEmbed(place, { description, config, autosize: { type: "fit", contains: "padding" }, ...spec }, { mode: "vega-lite", renderer: "svg", actions: false, ast: false }).then(r => {
    views.set(place, r);
    if (click) r.view.addEventListener("click", (_, item) => item?.datum && click(item.datum));
  });
}
const colours = keys => { const names = [...new Set(keys)].sort(), of = n => D.looks[n.split(" · ")[0]];
  return { domain: names, colour: names.map(n => of(n).colour), shape: names.map(n => of(n).shape), dash: names.map(n => of(n).dash) }; };

// -- the map of methods and levels, and accuracy against noise
function grey(v, low, high) { const t = high > low ? (v - low) / (high - low) : .5, mix = (a, b) => Math.round(a + (b - a) * t);
  return { back: `rgb(${mix(247, 8)},${mix(251, 81)},${mix(255, 156)})`, ink: t > .55 ? "#fff" : "#1a1a1a" }; }
function map() {
  const m = metric(), cells = mine(), g = D.groups[state.group], levels = g.levels.map(l => l[0]), rows = new Map();
  for (const c of cells) { if (!rows.has(label(c))) rows.set(label(c), {}); rows.get(label(c))[c.level] = c; }
  const mean = r => { const v = Object.values(r).map(c => score(c)).filter(s => s).map(s => s[0]); return v.length ? v.reduce((a, b) => a + b) / v.length : null; };
  const up = m[4] ? -1 : 1, order = [...rows].sort(([, a], [, b]) => { const x = mean(a), y = mean(b); return x === null ? 1 : y === null ? -1 : up * (x - y); });
  const rule = D.rules.find(r => r[0] === state.rule)[1];
  $("ex-map-title").textContent = `${title(m)}${m[2] ? " in " + m[2] : ""}${m[3] ? ", epoch by " + rule : ""}: methods and noise levels`;
  const table = el("table", { class: "map" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "method"), ...levels.map(l => el("th", { scope: "col", class: "n" }, l)))), el("tbody", {}));
  const ends = Object.fromEntries(levels.map(l => { const v = cells.filter(c => c.level === l).map(c => score(c)).filter(s => s).map(s => s[0]); return [l, [Math.min(...v), Math.max(...v)]]; }));
  for (const [name, row] of order) {
    const tr = el("tr", {}, el("th", { scope: "row" }, el("span", { class: "dot", style: `background:${D.looks[name.split(" · ")[0]].colour}` }), name));
    for (const l of levels) {
      const c = row[l], s = c && score(c);
      if (!s) { tr.append(el("td", { class: "n" }, c ? el("button", { type: "button", onclick: () => open(c.id) }, "–") : "")); continue; }
      const t = m[4] ? s[0] : -s[0], [low, high] = m[4] ? ends[l] : [-ends[l][1], -ends[l][0]], k = grey(t, low, high), text = shown(c);
      const bold = m[0] === "acc" && c.clear.includes(state.rule);
      tr.append(el("td", { class: "n", style: `background:${k.back}` }, el("button", { type: "button", style: `color:${k.ink}`, "aria-pressed": String(state.cell === c.id), "data-cell": c.id,
        title: `${name} at ${l}: ${text}, n = ${s[2]}${c.point ? "; " + c.point : ""}`, "aria-label": `${name} at ${l}: ${text}, n ${s[2]}`, onclick: () => open(c.id) }, bold ? el("strong", {}, text) : text)));
    }
    table.tBodies[0].append(tr);
  }
  document.querySelector("#ex-map .scroll").replaceChildren(table);
}
const title = m => m[0] === "acc" ? D.groups[state.group].measured.replace(/^./, c => c.toUpperCase()) : m[1].replace(/^./, c => c.toUpperCase());
function rates() {
  const m = metric(), g = D.groups[state.group], numbers = g.levels.every(l => l[1] !== null) && new Set(g.levels.map(l => l[1])).size === g.levels.length && g.levels.length > 1;
  const rate = Object.fromEntries(g.levels.map(l => [l[0], l[1]])), values = [];
  for (const c of mine()) { const s = score(c); if (s) values.push({ id: c.id, method: label(c), level: c.level, x: numbers ? rate[c.level] : c.level, y: s[0], low: s[0] - (s[1] || 0), high: s[0] + (s[1] || 0), n: s[2], shown: shown(c),
    interval: s[3] === null || s[3] === undefined ? "needs three replicates" : `${fixed(s[3], m)} to ${fixed(s[4], m)}`, point: c.point || "as published", seeds: c.seeds.join(", ") || "–" }); }
  $("ex-rates-title").textContent = `${title(m)} against noise`;
  const k = colours(values.map(v => v.method)), many = k.domain.length > 12;
  const x = { field: "x", type: numbers ? "quantitative" : "ordinal", title: numbers ? "noise rate" : "noise", sort: null, scale: numbers ? { nice: false, padding: 12, zero: false } : undefined, axis: { labelAngle: 0 } };
  const scale = { domain: k.domain, range: k.colour }, colour = { field: "method", scale, legend: many ? { columns: 2, title: null, symbolLimit: 60 } : { title: null } };
  const faded = (on, off) => ({ condition: { param: "over", value: on, empty: true }, value: off });
  const tooltip = ["method", ["level", "noise"], ["shown", m[1]], "n", ["interval", "95 % interval"], "point", "seeds"].map(f => Array.isArray(f) ? { field: f[0], title: f[1], type: "nominal" } : { field: f, type: "nominal" });
  return draw(document.querySelector("#ex-rates .chart"), `${title(m)} of each method against the noise rate; the same numbers are in the table beside it.`, {
    data: { values }, width: "container", height: 380, encoding: { x },
    layer: [
      { mark: { type: "area", opacity: .13, aria: false }, encoding: { y: { field: "low", type: "quantitative", title: `${m[1]}${m[2] ? " in " + m[2] : ""}`, scale: { zero: false } }, y2: { field: "high" }, color: { ...colour, legend: null }, opacity: faded(.16, .02) } },
      { mark: { type: "line", strokeWidth: 2, aria: false }, encoding: { y: { field: "y", type: "quantitative" }, color: colour, strokeDash: { field: "method", scale: { domain: k.domain, range: k.dash }, legend: null }, opacity: faded(1, .15) } },
      { mark: { type: "point", filled: true, size: 55, cursor: "pointer" }, params: [{ name: "over", select: { type: "point", fields: ["method"], on: "pointerover", clear: "pointerout" } }],
        encoding: { y: { field: "y", type: "quantitative" }, color: colour, shape: { field: "method", scale: { domain: k.domain, range: k.shape }, legend: null }, opacity: faded(1, .15), tooltip } },
    ],
  }, d => d.id !== undefined && open(d.id));
}

// -- one cell
const trialsOf = id => D.trials.filter(t => t[T.cell] === id);
function open(id, jump = true) {
  state.cell = id;
  for (const b of document.querySelectorAll("[data-cell]")) b.setAttribute("aria-pressed", String(+b.dataset.cell === id));
  cell();
  if (jump) { $("ex-cell-title").focus({ preventScroll: true }); $("ex-cell-title").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" }); }
}
function cell() {
  const c = D.cells[state.cell], place = $("ex-cell");
  for (const [p, v] of views) if (place.contains(p)) { v.finalize(); views.delete(p); }
  place.replaceChildren();
  $("ex-cell-title").textContent = c ? `${label(c)} at ${where(c, ", ")}` : "";
  if (!c) return;
  const m = D.metrics.find(x => x[0] === "acc"), trials = trialsOf(c.id), states = {};
  for (const t of trials) states[t[T.state]] = (states[t[T.state]] || 0) + 1;
  const facts = [["chosen point", (c.point || "the published one; nothing to search") + (c.star ? " (read off the truth: ORACLE)" : "")], ["replicates", c.seeds.length ? `${c.n}, seeds ${c.seeds.join(", ")}` : "none"]];
  for (const [r, name] of D.rules) { const s = m && score(c, m, r); if (s) facts.push([`${D.groups[c.group].measured}, epoch by ${name}`, `${fixed(s[0], m)}${s[1] !== null ? " ± " + fixed(s[1], m) : ""} %` + (s[3] !== null && s[3] !== undefined ? `, 95 % interval ${fixed(s[3], m)} to ${fixed(s[4], m)}` : "")]); }
  for (const x of D.metrics.filter(x => x[0] !== "acc")) { const s = score(c, x); if (s) facts.push([x[1], `${fixed(s[0], x)} ${x[2]}`]); }
  facts.push(["trials", Object.entries(states).map(([k, v]) => `${v} ${k}`).join(", ") || "none"]);
  place.append(el("dl", { class: "facts" }, ...facts.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])));
  place.append(el("p", {}, el("button", { type: "button", id: "ex-its", onclick: () => { filter({ filter: `${c.method} ${c.level}`.trim(), cell: c.id }); $("ex-trials-title").scrollIntoView(); } }, "Its trials in the table below")));
  const panels = el("div", { class: "panels" });
  place.append(panels);
  const panel = (name, description, spec, why) => { const box = el("div", { class: "chart" }); panels.append(el("figure", {}, el("figcaption", {}, name), spec ? box : el("p", { class: "absent" }, why))); if (spec) draw(box, description, { width: "container", height: 220, ...spec }, d => d.trial !== undefined && filter({ filter: `#${d.trial} ${c.method}`, cell: c.id })); };
  const curve = Object.entries(c.curves).flatMap(([k, rows]) => rows.map(([e, y, low, high]) => ({ epoch: e, y, low, high, what: D.curves[k] })));
  panel("Over epochs, mean and range of the replicates", "Curves over epochs", curve.length ? { data: { values: curve }, encoding: { x: { field: "epoch", type: "quantitative", axis: { tickMinStep: 1 } } }, layer: [
    { mark: { type: "area", opacity: .15 }, encoding: { y: { field: "low", type: "quantitative", title: "%" }, y2: { field: "high" }, color: { field: "what", title: null, legend: { orient: "bottom", columns: 2, labelLimit: 150 } } } },
    { mark: "line", encoding: { y: { field: "y", type: "quantitative" }, color: { field: "what" } } },
    { mark: { type: "point", size: 60, opacity: 0 }, encoding: { y: { field: "y", type: "quantitative" }, tooltip: ["what", "epoch", { field: "y", title: "%" }].map(t => typeof t === "string" ? { field: t } : t) } }] } : null, "nothing has been measured yet");
  const L = c.losses, bins = L ? Object.entries(L).filter(([k]) => k !== "edges").flatMap(([k, counts]) => counts.map((n, i) => ({ from: L.edges[i], to: L.edges[i + 1], n, labels: k }))) : [];
  panel("Losses after the last epoch, one replicate", "Histogram of losses", L ? { data: { values: bins.filter(b => b.to !== undefined) }, mark: { type: "bar", opacity: .6, binSpacing: 0 }, encoding: { x: { field: "from", type: "quantitative", title: "loss", bin: { binned: true } }, x2: { field: "to" }, y: { field: "n", type: "quantitative", stack: null, title: "training samples" }, color: { field: "labels", title: null, scale: { domain: ["right", "wrong", "all"].filter(k => k in L), range: ["right", "wrong", "all"].filter(k => k in L).map(k => ({ right: "#0072b2", wrong: "#d55e00", all: "#777" })[k]) }, legend: { orient: "bottom" } }, tooltip: [{ field: "labels" }, { field: "from", title: "loss from" }, { field: "n", title: "samples" }] } } : null, "no trial has left its losses");
  const search = trials.filter(t => t[T.origin] !== "replicate").sort((a, b) => a[T.number] - b[T.number]), lower = c.objective.endsWith("loss");
  let best = null;
  const history = search.filter(t => t[T.value] !== null).map(t => { if (t[T.state] === "complete" && (best === null || (lower ? t[T.value] < best : t[T.value] > best))) best = t[T.value]; return { trial: t[T.number], value: t[T.value], best, state: t[T.state], origin: t[T.origin], epochs: t[T.epochs], point: told(t[T.point]) }; });
  panel("Search history", "Objective of each trial, and the best so far", history.length > 1 ? { data: { values: history }, encoding: { x: { field: "trial", type: "quantitative", axis: { tickMinStep: 1 } } }, layer: [
    { mark: { type: "line", interpolate: "step-after", color: "#0072b2" }, encoding: { y: { field: "best", type: "quantitative", title: c.objective, scale: { zero: false } } } },
    { mark: { type: "point", filled: true, size: 60, cursor: "pointer" }, encoding: { y: { field: "value", type: "quantitative", scale: { zero: false } }, color: { field: "state", title: null, legend: { orient: "bottom" } }, shape: { field: "origin", title: null, legend: { orient: "bottom" } }, tooltip: ["trial", "value", "state", "origin", "epochs", "point"].map(field => ({ field })) } }] } : null, "one point: nothing was searched");
  const matter = Object.entries(c.importance).map(([name, v]) => ({ name, v }));
  panel("What matters (PED-ANOVA)", "Importance of hyperparameters", matter.length ? { data: { values: matter }, mark: { type: "bar", color: "#0072b2" }, encoding: { y: { field: "name", type: "nominal", sort: "-x", title: null }, x: { field: "v", type: "quantitative", title: "share", scale: { domain: [0, 1] } }, tooltip: [{ field: "name" }, { field: "v", title: "share" }] } } : null, "needs eight finished trials with something to search");
  for (const [name, log] of Object.entries(c.axes)) {
    const values = search.filter(t => t[T.value] !== null && name in t[T.point]).map(t => ({ x: t[T.point][name], value: t[T.value], state: t[T.state], trial: t[T.number], point: told(t[T.point]) }));
    if (values.length < 2) continue;
    const number = values.every(v => typeof v.x === "number"), positive = values.every(v => v.x > 0);
    panel(`Slice: ${name}`, `Objective against ${name}`, { data: { values }, mark: { type: "point", filled: true, size: 55, cursor: "pointer" }, encoding: { x: { field: "x", type: number ? "quantitative" : "nominal", title: name, scale: number ? { type: log && positive ? "log" : log ? "symlog" : "linear", zero: false, nice: false, padding: 8 } : undefined }, y: { field: "value", type: "quantitative", title: c.objective, scale: { zero: false } }, color: { field: "state", title: null, legend: { orient: "bottom" } }, tooltip: ["trial", { field: "x", title: name }, "value", "state", "point"].map(f => typeof f === "string" ? { field: f } : f) } });
  }
}

// -- all trials
const columns = [...(several ? [["study", t => D.studies[D.cells[t[T.cell]].study]]] : []), ["data and noise", t => where(D.cells[t[T.cell]], " ")], ["method", t => D.cells[t[T.cell]].method],
  ["#", t => t[T.number]], ["of", t => t[T.origin]], ["state", t => t[T.state]], ["objective", t => t[T.value]], ["accuracy", t => t[T.acc] === null ? null : +(100 * t[T.acc]).toFixed(2)], ["epochs", t => t[T.epochs]], ["seconds", t => t[T.seconds]], ["seed", t => t[T.seed]],
  ["point", t => told(t[T.point])], ["why it stopped", t => t[T.reason]]];
const texts = D.trials.map(t => columns.map(([, f]) => f(t)).join(" ").toLowerCase());
let only = null;  // the cell whose trials were asked for
function filter(change) { only = null; Object.assign(state, { rows: 100, state: "", origin: "" }, change); only = change.cell ?? null; $("ex-filter").value = change.filter ?? state.filter; $("ex-state").value = state.state; $("ex-origin").value = state.origin; trials(); }
function trials() {
  const words = only === null ? state.filter.toLowerCase().split(/\s+/).filter(w => w) : state.filter.split(/\s+/).filter(w => w.startsWith("#"));
  let rows = D.trials.map((t, i) => [t, texts[i]]).filter(([t, text]) => (only === null || t[T.cell] === only) && (!state.state || t[T.state] === state.state) && (!state.origin || t[T.origin] === state.origin)
    && words.every(w => w.startsWith("#") ? String(t[T.number]) === w.slice(1) : text.includes(w))).map(([t]) => t);
  if (state.sort !== null) {
    const f = columns[state.sort][1], dir = state.up ? 1 : -1, less = (a, b) => a === b ? 0 : a === null || a === "" ? 1 : b === null || b === "" ? -1 : dir * (a < b ? -1 : 1);
    rows = [...rows].sort((a, b) => less(f(a), f(b)));
  }
  $("ex-count").textContent = `${rows.length.toLocaleString("en")} of ${D.trials.length.toLocaleString("en")} trials` + (D.recorded > D.trials.length ? `; of ${D.recorded.toLocaleString("en")} recorded, these trained longest` : "");
  const table = $("ex-trials");
  table.tHead.replaceChildren(el("tr", {}, ...columns.map(([name], i) => el("th", { scope: "col", "aria-sort": state.sort === i ? (state.up ? "ascending" : "descending") : "none" },
    el("button", { type: "button", onclick: () => { state.up = state.sort === i ? !state.up : true; state.sort = i; trials(); $("ex-trials").tHead.querySelectorAll("button")[i].focus(); } }, name)))));
  table.tBodies[0].replaceChildren(...rows.slice(0, state.rows).map(t => el("tr", t[T.chosen] ? { class: "chosen" } : {}, ...columns.map(([name, f]) => {
    const v = f(t);
    return el("td", typeof v === "number" || v === null ? { class: "n" } : {}, name === "state" && t[T.chosen] ? `${v} (chosen)` : v === null ? "–" : String(v));
  }))));
  $("ex-more").hidden = rows.length <= state.rows;
}

// -- controls
for (const f of document.querySelectorAll("#explore form")) f.addEventListener("submit", e => e.preventDefault());
const options = (select, list, chosen) => { select.replaceChildren(...list.map(([v, t]) => { const o = el("option", { value: v }, t); o.selected = String(v) === String(chosen); return o; })); select.closest("label").hidden = list.length < 2; };
function show() {
  for (const d of document.querySelectorAll("#overview .said")) d.hidden = +d.dataset.group !== state.group;
  const m = metric();
  $("ex-rule").disabled = !m[3];
  map();
  rates();
}
options($("ex-group"), D.groups.map((g, i) => [i, g.title]), 0);
options($("ex-study"), [["", "all"], ...D.studies.map((s, i) => [i, s])], "");
$("ex-study").closest("label").hidden = !several;
options($("ex-metric"), D.metrics.map(m => [m[0], m[1]]), state.metric);
options($("ex-rule"), D.rules, state.rule);
options($("ex-state"), [["", "any"], ...[...new Set(D.trials.map(t => t[T.state]))].sort().map(s => [s, s])], "");
options($("ex-origin"), [["", "all"], ...[...new Set(D.trials.map(t => t[T.origin]))].sort().map(s => [s, s])], "");
$("ex-group").onchange = e => { state.group = +e.target.value; state.cell = null; cell(); show(); };
$("ex-study").onchange = e => { state.study = e.target.value; show(); };
$("ex-metric").onchange = e => { state.metric = e.target.value; show(); };
$("ex-rule").onchange = e => { state.rule = e.target.value; show(); };
$("ex-methods").oninput = e => { state.methods = e.target.value; show(); };
$("ex-filter").oninput = e => { only = null; state.filter = e.target.value; state.rows = 100; trials(); };
$("ex-state").onchange = e => { state.state = e.target.value; state.rows = 100; trials(); };
$("ex-origin").onchange = e => { state.origin = e.target.value; state.rows = 100; trials(); };
$("ex-more").onclick = () => { state.rows += 400; trials(); };
$("explore").hidden = false;
let begun = false;  // charts have no width in a tab that is not shown
const begin = () => { if (!begun && $("overview").offsetParent !== null) { begun = true; show(); } };
addEventListener("hashchange", begin);
trials();
begin();
})();
