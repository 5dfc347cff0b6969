document.documentElement.classList.add("js");
const links = [...document.querySelectorAll("nav a")];
function show() {
  const told = location.hash.slice(1), known = links.some(a => a.hash === "#" + told);
  const id = known ? told : links[0].hash.slice(1);
  for (const a of links) a.classList.toggle("on", a.hash === "#" + id);
  for (const s of document.querySelectorAll("section")) s.classList.toggle("on", s.id === id);
  scrollTo(0, 0);
}
addEventListener("hashchange", show);
show();
for (const th of document.querySelectorAll("figure.table thead th")) th.addEventListener("click", () => {
  const i = th.cellIndex, body = th.closest("table").tBodies[0], up = th.dataset.up !== "1";
  for (const other of th.parentNode.children) delete other.dataset.up;
  th.dataset.up = up ? "1" : "0";
  const key = r => { const t = r.cells[i].textContent, x = parseFloat(t); return isNaN(x) ? t : x };
  const less = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  [...body.rows].sort((a, b) => (up ? 1 : -1) * less(key(a), key(b))).forEach(r => body.append(r));
});
let closed = [];  // paper cannot be opened: what is folded is printed open
addEventListener("beforeprint", () => { closed = [...document.querySelectorAll("details:not([open])")]; for (const d of closed) d.open = true; });
addEventListener("afterprint", () => { for (const d of closed) d.open = false; });
