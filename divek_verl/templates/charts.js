"use strict";
// Draws the curves and confusion matrices in the colours of the light or dark scheme, and again when that changes.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const matrices = read("matrices");
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const slots = 6;
  const quiet = { responsive: true, displayModeBar: false };

  const axis = (given, title) => ({
    ...given,
    title: title ? { text: title, font: { color: token("--muted"), size: 12 }, standoff: 8 } : undefined,
    gridcolor: token("--line"),
    linecolor: token("--line-strong"),
    tickfont: { color: token("--muted"), size: 12 },
    zeroline: false,
    fixedrange: true,
    automargin: true,
  });
  const paper = () => ({
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: token("--sans"), color: token("--ink") },
    hoverlabel: { bgcolor: token("--surface"), bordercolor: token("--line-strong"), font: { color: token("--ink") } },
    dragmode: false,
  });

  // Each chart on its own: one that fails says so in its place, and the others are drawn.
  const attempt = async (target, draw) => {
    try {
      await draw();
    } catch (error) {
      const why = "This chart could not be drawn: " + error.message;
      target.replaceChildren(Object.assign(document.createElement("p"), { className: "missing", textContent: why }));
      target.style.height = "auto";
    }
  };

  const drawCurve = (figure, target) => {
    const traces = figure.data.map((trace) => {
      const slot = trace.meta;
      const colour = token("--series-" + (typeof slot === "number" ? slot % slots : slot));
      const coloured = { ...trace, marker: { color: colour, size: 6 } };
      if (trace.type !== "bar") coloured.line = { ...trace.line, color: colour, width: 2.25 };
      return coloured;
    });
    const legendRows = figure.layout.showlegend ? Math.ceil(figure.data.length / 2) : 0;
    const height = 250 + Math.max(0, legendRows - 1) * 20;
    const layout = {
      ...figure.layout,
      ...paper(),
      height,
      margin: { l: 8, r: 12, t: legendRows ? 14 + 20 * legendRows : 10, b: 8 },
      legend: { orientation: "h", traceorder: "normal", x: 0, y: 1.03, yanchor: "bottom", font: { size: 12 } },
      hovermode: "x unified",
      bargap: 0.25,
      xaxis: { ...axis(figure.layout.xaxis, "step"), showgrid: false, hoverformat: "d", tickformat: "d" },
      yaxis: axis(figure.layout.yaxis),
    };
    target.style.height = height + "px";
    return Plotly.react(target, traces, layout, quiet);
  };

  // ------------------------------------------------------------------ confusion matrices

  const picker = document.getElementById("matrix-choice");
  const several = new Set(matrices.map((matrix) => matrix.run)).size > 1;

  const drawMatrix = (matrix, when, target) => {
    const count = matrix.classes.length;
    const labels = matrix.labels.map((label, index) => (index < count ? label : "<i>" + label + "</i>"));
    // Two shortened labels can be equal, so the axes use numbers and the labels are tick texts.
    const ticks = labels.map((_, index) => index);
    const trace = {
      type: "heatmap", z: matrix[when], x: ticks, y: ticks.slice(0, count), zmin: 0, zmax: 1, xgap: 1, ygap: 1, showscale: false,
      hoverongaps: false,
      customdata: matrix[when].map((row) => row.map((_, column) => matrix.labels[column])),
      text: matrix[when].map((row) => row.map((value) => (value !== null && value >= 0.005 ? Math.round(100 * value) : ""))),
      texttemplate: count <= 12 ? "%{text}" : "",
      textfont: { size: 11 },
      // Steeper at the low end, so that one confusion in twenty answers is visible.
      colorscale: [[0, token("--sunken")], [0.05, token("--heat-1")], [0.35, token("--heat-2")], [1, token("--heat-3")]],
      hovertemplate: "%{customdata}: %{z:.1%}<extra></extra>",
    };
    const layout = {
      ...paper(),
      title: { text: (matrix.after === null ? "Validation" : when === "before" ? "Before" : "After") + (count <= 12 ? ", % of samples" : ""), font: { size: 14, color: token("--ink") }, x: 0, xanchor: "left", xref: "paper", y: 0.985, yanchor: "top" },
      height: 130 + 24 * count + 60,
      margin: { l: 8, r: 8, t: 34, b: 8 },
      xaxis: { ...axis({}), showgrid: false, tickmode: "array", tickvals: ticks, ticktext: labels, tickangle: -55 },
      yaxis: { ...axis({}), showgrid: false, tickmode: "array", tickvals: ticks.slice(0, count), ticktext: labels.slice(0, count), autorange: "reversed" },
    };
    target.style.height = layout.height + "px";
    const drawn = Plotly.react(target, [trace], layout, quiet);
    target.removeAllListeners("plotly_click");
    target.on("plotly_click", ({ points: [point] }) => {
      const detail = { run: matrix.run, source: matrix.source, truth: matrix.classes[point.y], answer: matrix.classes[point.x] || "" };
      document.dispatchEvent(new CustomEvent("divek-questions", { detail }));
    });
    return drawn;
  };
  const drawMatrices = () => {
    const matrix = matrices[Number(picker.value)];
    for (const when of ["before", "after"]) {
      const target = document.getElementById("matrix-" + when);
      target.hidden = matrix[when] === null;
      if (!target.hidden) attempt(target, () => drawMatrix(matrix, when, target));
    }
  };
  if (matrices.length) {
    matrices.forEach((matrix, index) => {
      const option = document.createElement("option");
      option.value = String(index);
      option.textContent = (several ? matrix.run + " · " : "") + matrix.source;
      picker.append(option);
    });
    picker.addEventListener("change", drawMatrices);
    document.getElementById("matrix").hidden = false;
  }

  const draw = () => {
    figures.forEach((figure, index) => {
      const target = document.getElementById("chart-" + index);
      attempt(target, () => drawCurve(figure, target));
    });
    if (matrices.length) drawMatrices();
  };
  draw();
  scheme.addEventListener("change", draw);
})();
