"use strict";

// Under the pointer, a chart tells its frame and values; all else on the page is there without this script.
for (const chart of document.querySelectorAll(".chart")) {
  const { x, lines } = JSON.parse(chart.dataset.lines);
  const [plot, cursor, output] = [".plot", ".cursor", "output"].map((part) => chart.querySelector(part));
  const span = Math.max(1, x[x.length - 1] - x[0]);

  function show(event) {
    const box = plot.getBoundingClientRect();
    const wanted = x[0] + (span * (event.clientX - box.left)) / box.width;
    let nearest = 0;
    x.forEach((number, i) => {
      if (Math.abs(number - wanted) < Math.abs(x[nearest] - wanted)) nearest = i;
    });
    cursor.style.left = `${(100 * (x[nearest] - x[0])) / span}%`;
    cursor.hidden = false;
    const values = lines.map(({ name, values }) => {
      const value = values[nearest];
      return `${name} ${value === null ? "\u2013" : `${(100 * value).toFixed(1)} %`}`;
    });
    output.textContent = `frame ${x[nearest]}: ${values.join(", ")}`;
  }

  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", () => {
    cursor.hidden = true;
    output.textContent = "";
  });
}
