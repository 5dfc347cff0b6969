"use strict";
const all = JSON.parse(document.getElementById("data").textContent);
const list = document.getElementById("list"), pair = document.getElementById("pair"), count = document.getElementById("count");
const element = (tag, text, name) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (name) e.className = name; return e; };

function card(s) {
  const box = element("article"); box.tabIndex = 0;
  if (s.picture) { const image = element("img"); image.src = s.picture; image.alt = `${s.name}, labelled ${s.given}`; box.append(image); }
  const what = element("div", undefined, "what"), line = element("div");
  line.append(element("span", s.given, "given"), " \u2192 ", element("span", s.suggested, "suggested"));
  what.append(line, element("small", `${s.name}, quality ${s.quality.toFixed(3)}`));
  if (!s.picture) {
    box.className = "vector"; const most = Math.max(...s.near.map((n) => n[1])), bars = element("ul");
    for (const [name, n] of s.near) {
      const bar = element("li", undefined, "bar"), length = element("i"); length.style.width = `${100 * n / most}%`;
      bar.append(element("span", name), length, element("span", n)); bars.append(bar);
    }
    what.append(element("small", "labels of the nearest"), bars);
  }
  what.append(element("small", s.why)); box.append(what); return box;
}

function show() {
  const some = all.filter((s) => !pair.value || JSON.stringify([s.given, s.suggested]) === pair.value);
  list.replaceChildren(...some.map(card)); count.textContent = `${some.length} shown`;
}

const pairs = new Map();
for (const s of all) { const key = JSON.stringify([s.given, s.suggested]); pairs.set(key, (pairs.get(key) || 0) + 1); }
pair.append(new Option(`all (${all.length})`, ""));
for (const [key, n] of [...pairs].sort((a, b) => b[1] - a[1])) { const [g, s] = JSON.parse(key); pair.append(new Option(`${g} \u2192 ${s} (${n})`, key)); }
pair.addEventListener("change", show);
document.addEventListener("keydown", (e) => {
  if (e.target === pair || e.ctrlKey || e.metaKey || e.altKey || !["j", "k"].includes(e.key)) return;
  const cards = [...list.children], at = cards.indexOf(document.activeElement) + (e.key === "j" ? 1 : -1);
  cards[Math.min(Math.max(at, 0), cards.length - 1)]?.focus();
});
show();
