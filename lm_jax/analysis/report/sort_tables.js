// A click on a heading sorts its table; a click on it again turns the order around.
(() => {
  "use strict";
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.firstChild.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const numeric = head.classList.contains("num");
        const key = (row) => row.cells[column].dataset.v;
        const rows = [...table.tBodies[0].rows].sort((a, b) => {
          const [u, v] = [key(a), key(b)];
          // What is missing comes last in either order.
          if (u === undefined || v === undefined) return (u === undefined) - (v === undefined);
          return (down ? -1 : 1) * (numeric ? u - v : u.localeCompare(v, "en", { numeric: true }));
        });
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
