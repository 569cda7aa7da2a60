"use strict";
const {nodes} = JSON.parse(document.getElementById("data").textContent);
const body = document.querySelector("tbody");
const rows = [...body.rows];
const tip = document.getElementById("tip");
const search = document.getElementById("search");
const count = document.getElementById("count");
const parts = n => ["node", "text"].map(k => document.getElementById(k + n)).filter(Boolean);
const numbers = row => row.dataset.nodes.split(" ").filter(Boolean);
const rowOf = {};
for (const row of rows) for (const n of numbers(row)) rowOf[n] = row;

function mark(n, name, on) {
  const group = document.getElementById("node" + n);
  if (group) group.classList.toggle(name, on);
  if (rowOf[n]) rowOf[n].classList.toggle(name, on);
}

// A chosen γ stays marked, in the picture and in the table, until another is chosen.
function choose(row) {
  for (const old of document.querySelectorAll(".chosen")) old.classList.remove("chosen");
  for (const button of body.querySelectorAll("[aria-current]")) {
    button.removeAttribute("aria-current");
  }
  if (!row) return;
  row.classList.add("chosen");
  row.querySelector("button").setAttribute("aria-current", "true");
  for (const n of numbers(row)) mark(n, "chosen", true);
}

for (const [n, about] of Object.entries(nodes)) {
  for (const part of parts(n)) {
    part.addEventListener("mouseenter", () => {
      mark(n, "lit", true);
      tip.replaceChildren();
      const name = document.createElement("b");
      name.textContent = about.label;
      tip.append(name, document.createElement("br"),
        about.role ? about.role + ": " + about.reason : about.kind);
      tip.hidden = false;
    });
    part.addEventListener("mousemove", e => {
      tip.style.left = Math.max(0, Math.min(e.clientX + 14, innerWidth - 400)) + "px";
      tip.style.top = Math.min(e.clientY + 14, innerHeight - 90) + "px";
    });
    part.addEventListener("mouseleave", () => { mark(n, "lit", false); tip.hidden = true; });
    part.addEventListener("click", () => {
      choose(rowOf[n]);
      if (!rowOf[n]) return;
      rowOf[n].hidden = false;
      rowOf[n].scrollIntoView({block: "center"});
    });
  }
}

for (const row of rows) {
  row.addEventListener("mouseenter", () => numbers(row).forEach(n => mark(n, "lit", true)));
  row.addEventListener("mouseleave", () => numbers(row).forEach(n => mark(n, "lit", false)));
  row.addEventListener("click", () => {
    choose(row);
    const [first] = numbers(row);
    const group = first && document.getElementById("node" + first);
    if (group) group.scrollIntoView({block: "center", inline: "center"});
  });
}

function filter() {
  const shown = new Set([...document.querySelectorAll("#filters input:checked")].map(b => b.value));
  const words = search.value.toLowerCase();
  for (const row of rows) {
    row.hidden = !shown.has(row.dataset.role) || !row.textContent.toLowerCase().includes(words);
  }
  for (const [n, about] of Object.entries(nodes)) {
    for (const part of parts(n)) {
      part.classList.toggle("faded", Boolean(about.role) && !shown.has(about.role));
    }
  }
  const left = rows.filter(row => !row.hidden).length;
  count.textContent = left === rows.length ? `${left} γ` : `${left} of ${rows.length} γ`;
}
document.getElementById("filters").addEventListener("change", filter);
search.addEventListener("input", filter);

// A title sorts up, then down, then as the data flow.
for (const head of document.querySelectorAll("thead th")) {
  head.querySelector("button").addEventListener("click", () => {
    const next = {ascending: "descending", descending: null}[head.getAttribute("aria-sort")];
    const order = next === undefined ? "ascending" : next;
    for (const other of document.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    const sorted = [...rows];
    if (order) {
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const text = row => row.cells[head.cellIndex].textContent;
      const compare = new Intl.Collator("en", {numeric: true}).compare;
      sorted.sort((a, b) => {
        const [x, y] = [parseFloat(text(a)), parseFloat(text(b))];
        return sign * (Number.isNaN(x) || Number.isNaN(y) ? compare(text(a), text(b)) : x - y);
      });
    }
    body.replaceChildren(...sorted);
  });
}
