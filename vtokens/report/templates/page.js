"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const root = document.documentElement;

  // Chips choose what is shown; with none chosen, everything is.
  const chosen = { s: new Set(), k: new Set() };
  const said = document.querySelector("#filtered");
  const show = () => {
    for (const element of all("[data-s]")) {
      const { s, k } = element.dataset;
      const hidden = (chosen.s.size && !chosen.s.has(s)) || (chosen.k.size && k !== undefined && !chosen.k.has(k));
      element.classList.toggle("off", Boolean(hidden));
    }
    for (const chip of all(".chip")) chip.setAttribute("aria-pressed", chosen[chip.dataset.kind].has(chip.dataset.value));
    const count = chosen.s.size + chosen.k.size;
    root.classList.toggle("some", count > 0); // the front is that of all settings
    for (const reset of all(".reset")) reset.hidden = !count;
    said.textContent = count ? `Shown: ${[...chosen.s, ...chosen.k].join(", ")}` : "Everything is shown";
    for (const input of all("input[data-table]")) tally(input);
  };
  for (const chip of all(".chip")) {
    chip.addEventListener("click", () => {
      const set = chosen[chip.dataset.kind], value = chip.dataset.value;
      set.has(value) ? set.delete(value) : set.add(value);
      show();
    });
  }
  for (const reset of all(".reset")) {
    reset.addEventListener("click", () => { chosen.s.clear(); chosen.k.clear(); show(); });
  }

  const tally = (input) => {
    const rows = all("tbody tr", document.getElementById(input.dataset.table));
    const left = rows.filter((row) => !row.matches(".off, .miss")).length;
    input.parentElement.parentElement.querySelector("output").textContent = `${left} of ${rows.length} rows`;
  };
  for (const input of all("input[data-table]")) {
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of all("tbody tr", document.getElementById(input.dataset.table))) {
        const text = row.textContent.toLowerCase();
        row.classList.toggle("miss", !words.every((word) => text.includes(word)));
      }
      tally(input);
    });
    tally(input);
  }

  // Numbers sort by data-v, downwards first; whatever has no figure goes last either way.
  for (const table of all("table.sort")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const body = table.tBodies[0], rows = [...body.rows];
        const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
        const numeric = rows.every((row) => row.cells[column].dataset.v !== undefined);
        const before = head.getAttribute("aria-sort");
        const way = before === "descending" ? 1 : before === "ascending" ? -1 : numeric ? -1 : 1;
        const value = new Map(rows.map((row) => [row, numeric ? Number.parseFloat(key(row)) : key(row)]));
        rows.sort((a, b) => {
          const x = value.get(a), y = value.get(b);
          if (!numeric) return way * x.localeCompare(y, "en", { numeric: true });
          return Number.isNaN(x) - Number.isNaN(y) || (Number.isNaN(x) ? 0 : way * (x - y));
        });
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
        for (const row of rows) row.classList.remove("leads");
        body.append(...rows);
      });
    });
  }

  const tip = document.getElementById("tip");
  const place = (event) => {
    const dot = event.target.closest?.(".dot");
    tip.hidden = !dot;
    if (!dot) return;
    tip.textContent = dot.dataset.tip;
    const box = tip.getBoundingClientRect(), at = dot.getBoundingClientRect();
    const left = Math.min(at.left + at.width / 2 + 10, innerWidth - box.width - 6);
    tip.style.left = `${Math.max(6, left)}px`;
    tip.style.top = `${Math.max(6, at.top - box.height - 6)}px`;
  };
  document.addEventListener("pointerover", place);
  document.addEventListener("pointerdown", place);
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  show();
})();
