(() => {
  const range = document.querySelector("#network input");
  const shown = document.querySelector("#network output");
  const body = document.querySelector("#network tbody");
  const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
  range.addEventListener("input", () => {
    const kwhPerGb = 10 ** range.value;
    shown.value = digits.format(kwhPerGb);
    const rows = [...body.rows].map((row) => {
      const { f1, kwh, gb, intensity } = row.dataset;
      const transfer = gb * kwhPerGb;
      const eaps = f1 / ((+kwh + transfer) * intensity);
      row.cells[1].textContent = digits.format(eaps);
      row.cells[2].textContent = Math.round((100 * transfer) / (+kwh + transfer)) + "%";
      return [eaps, row];
    });
    body.append(...rows.sort((a, b) => b[0] - a[0]).map(([, row]) => row));
  });
})();
