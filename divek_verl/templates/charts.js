"use strict";
// Draws the charts in the colours of the reader's scheme, and again when the scheme changes.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const slots = 6;

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

  const draw = () => {
    figures.forEach((figure, index) => {
      const traces = figure.data.map((trace) => {
        const slot = trace.meta;
        const colour = token("--series-" + (typeof slot === "number" ? slot % slots : slot));
        const coloured = { ...trace, marker: { color: colour, size: 6 } };
        if (trace.type !== "bar") coloured.line = { ...trace.line, color: colour, width: 2.25 };
        return coloured;
      });
      const layout = {
        ...figure.layout,
        height: 250,
        margin: { l: 8, r: 12, t: figure.layout.showlegend ? 34 : 10, b: 8 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: token("--sans"), color: token("--ink") },
        legend: { orientation: "h", traceorder: "normal", x: 0, y: 1.03, yanchor: "bottom", font: { size: 12 } },
        hovermode: "x unified",
        hoverlabel: { bgcolor: token("--surface"), bordercolor: token("--line-strong"), font: { color: token("--ink") } },
        dragmode: false,
        bargap: 0.25,
        xaxis: { ...axis(figure.layout.xaxis, "step"), showgrid: false, hoverformat: "d", tickformat: "d" },
        yaxis: axis(figure.layout.yaxis),
      };
      Plotly.react("chart-" + index, traces, layout, { responsive: true, displayModeBar: false });
    });
  };

  draw();
  scheme.addEventListener("change", draw);
})();
