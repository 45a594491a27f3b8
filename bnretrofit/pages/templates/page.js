"use strict";
// What the page does beyond being read: reasons shown beside the pointer, and a table that sorts and filters.
(() => {
  const tip = document.getElementById("tip");
  const show = (text, box) => {
    tip.textContent = text;
    tip.hidden = false;
    const left = Math.min(box.left + 24, window.innerWidth - tip.offsetWidth - 8);
    const below = box.bottom + 6;
    const fits = below + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${fits ? below : Math.max(8, box.top - tip.offsetHeight - 6)}px`;
  };
  const hide = () => { tip.hidden = true; };

  const picture = document.querySelector(".picture[role=listbox]");
  if (picture) {
    const rows = [...picture.querySelectorAll("[role=option]")];
    const pane = picture.parentElement;
    let current = -1;
    // A title of its own would be shown a second time, and not to those who use keys or fingers.
    for (const row of rows) {
      const title = row.querySelector("title");
      row.dataset.tip = title.textContent;
      row.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    const mark = (place) => {
      if (rows[current]) {
        rows[current].classList.remove("current");
        rows[current].setAttribute("aria-selected", "false");
      }
      current = place;
      const row = rows[current];
      row.classList.add("current");
      row.setAttribute("aria-selected", "true");
      picture.setAttribute("aria-activedescendant", row.id);
      const box = row.querySelector(".hit").getBoundingClientRect();
      const frame = pane.getBoundingClientRect();
      if (box.top < frame.top) pane.scrollTop -= frame.top - box.top + box.height;
      if (box.bottom > frame.bottom) pane.scrollTop += box.bottom - frame.bottom + box.height;
      show(row.dataset.tip, row.querySelector(".hit").getBoundingClientRect());
    };
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    picture.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hide();
      if (!(event.key in steps)) return;
      event.preventDefault();
      mark(Math.max(0, Math.min(rows.length - 1, current + steps[event.key])));
    });
    picture.addEventListener("blur", hide);
    // Whoever moves by keys makes it scroll: the reason goes along.
    pane.addEventListener("scroll", () => {
      if (document.activeElement !== picture || !rows[current] || tip.hidden) hide();
      else show(rows[current].dataset.tip, rows[current].querySelector(".hit").getBoundingClientRect());
    });
    for (const row of rows) {
      row.addEventListener("pointerenter", () => show(row.dataset.tip, row.querySelector(".hit").getBoundingClientRect()));
      row.addEventListener("pointerleave", hide);
      row.addEventListener("click", () => mark(rows.indexOf(row)));
    }
  }

  const table = document.getElementById("layer-table");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.querySelectorAll("th")];
    const value = (row, column) => {
      const cell = row.cells[column];
      return "value" in cell.dataset ? cell.dataset.value : cell.textContent.trim();
    };
    const order = new Intl.Collator(undefined, { numeric: true });
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const numbers = head.dataset.kind === "number";
        const sign = down ? -1 : 1;
        rows.sort((a, b) => {
          const [first, second] = [value(a, column), value(b, column)];
          // What has no value comes last, whichever way.
          if (!first || !second) return (first ? 0 : 1) - (second ? 0 : 1);
          return sign * (numbers ? Number(first) - Number(second) : order.compare(first, second));
        });
        body.append(...rows);
      });
    });
    const words = document.getElementById("filter");
    const state = document.getElementById("filter-state");
    const count = document.getElementById("filter-count");
    // Not in its figures: 12 is the name of a layer, and a part of many a number.
    const wordsOf = (row) => [...row.cells].filter((cell) => !cell.classList.contains("number"))
      .map((cell) => cell.textContent.toLowerCase()).join(" ");
    const filter = () => {
      const wanted = words.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const fits = wordsOf(row).includes(wanted) && (state.value === "*" || row.dataset.state === state.value);
        row.hidden = !fits;
        shown += fits;
      }
      count.textContent = `${shown} of ${rows.length} shown`;
    };
    words.addEventListener("input", filter);
    state.addEventListener("change", filter);
    // A browser may have kept what was typed before a reload.
    filter();
  }
})();
