"use strict";
const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const collator = new Intl.Collator("en", { numeric: true });

// "1.5 MiB" in bytes, a plain number as it is; NaN for any other text.
function quantity(text) {
  const found = /^(-?[\d.]+)(?:%| ([KMGTP]?i?B))?$/.exec(text.trim());
  return found ? Number(found[1]) * 1024 ** Math.max(0, units.indexOf(found[2])) : NaN;
}

function sort(table, column, header) {
  const down = header.getAttribute("aria-sort") === "ascending";
  const number = header.classList.contains("number");
  const keyed = [...table.tBodies[0].rows].map((row) => {
    const text = row.cells[column].textContent;
    return [number ? quantity(text) : text, row];
  });
  const compare = number ? (a, b) => (a - b) || (isNaN(a) - isNaN(b)) : collator.compare;
  keyed.sort((a, b) => compare(a[0], b[0]));
  if (down) keyed.reverse();
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  table.tBodies[0].append(...keyed.map((pair) => pair[1]));
}

for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, column, header));
    header.append(button);
  });
}

for (const input of document.querySelectorAll("input")) {
  const section = input.closest("section");
  const rows = [...section.querySelectorAll("tbody tr")];
  const count = section.querySelector(".count");
  input.hidden = false;
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    count.textContent = wanted ? `${shown} of ${rows.length}` : `${rows.length}`;
  });
}
