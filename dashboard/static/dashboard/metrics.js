/* Draws the plots of a node's page with uPlot, in place of those that the server drew: to be read off and looked into. */
(() => {
  "use strict";
  const HEIGHT = 200;
  const drawn = new Set();
  const colour = (name) => getComputedStyle(document.querySelector(".gf")).getPropertyValue(name).trim();

  // A line's colour is that of its swatch, which stands in the style sheet.
  function strokeOf(turn) {
    const swatch = document.createElement("i");
    swatch.className = `gf-line-${turn % 8}`;
    document.body.append(swatch);
    const stroke = getComputedStyle(swatch).backgroundColor;
    swatch.remove();
    return stroke;
  }

  const two = (number) => String(number).padStart(2, "0");

  // As everywhere in the console: 24 hours, the year first, in the reader's zone.
  function written(seconds, span) {
    const at = new Date(seconds * 1000);
    const day = `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
    return span > 2 * 86400 ? day : `${two(at.getHours())}:${two(at.getMinutes())}`;
  }

  function moment(seconds) {
    const at = new Date(seconds * 1000);
    return `${at.getFullYear()}-${written(seconds, Infinity)} ${written(seconds, 0)}`;
  }

  // All of the window, until somebody looks closer.
  function rangeOf(data) {
    const [first, last] = [data.instants[0], data.instants.at(-1)];
    return (u, least, most) => (least < most && (least > first || most < last) ? [least, most] : [data.from, data.to]);
  }

  function optionsOf(data, width) {
    const axis = { stroke: () => colour("--gf-soft"), grid: { stroke: () => colour("--gf-line"), width: 1 }, ticks: { show: false } };
    const times = (u, splits) => splits.map((at) => written(at, u.scales.x.max - u.scales.x.min));
    const shown = (u, value) => (value === null || value === undefined ? "–" : `${value.toFixed(1)} ${data.unit}`);
    return {
      width,
      height: HEIGHT,
      cursor: { sync: { key: "node" }, y: false },
      scales: { x: { range: rangeOf(data) }, y: { range: [0, data.top || 1] } },
      axes: [{ ...axis, values: times, size: 28 }, { ...axis, size: 56 }],
      series: [
        { label: "At", value: (u, at) => (at === null || at === undefined ? "–" : moment(at)) },
        ...data.names.map((name, turn) => ({ label: name, stroke: strokeOf(turn), width: 1.5, value: shown, points: { show: data.instants.length < 3 } })),
      ],
    };
  }

  function draw(place) {
    const data = JSON.parse(document.getElementById(place.dataset.plot).textContent);
    place.textContent = "";
    const plot = new uPlot(optionsOf(data, place.clientWidth), [data.instants, ...data.lines], place);
    drawn.add({ place, plot });
  }

  function fit() {
    for (const one of drawn) {
      if (!one.place.isConnected) {
        one.plot.destroy();
        drawn.delete(one);
      } else if (one.place.clientWidth && one.place.clientWidth !== one.plot.width) {
        one.plot.setSize({ width: one.place.clientWidth, height: HEIGHT });
      }
    }
  }

  addEventListener("resize", fit);
  new MutationObserver(() => drawn.forEach((one) => one.plot.redraw())).observe(document.documentElement, { attributeFilter: ["class"] });
  document.addEventListener("htmx:load", (event) => {
    fit();
    for (const place of event.target.querySelectorAll("[data-plot]")) draw(place);
    for (const legend of document.querySelectorAll("[data-plot-legend]")) legend.remove(); // Each plot has its own.
  });
})();
