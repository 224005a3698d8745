(() => {
  const range = document.querySelector("#network input");
  const shown = document.querySelector("#network output");
  const body = document.querySelector("#network tbody");
  const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
  range.addEventListener("input", () => {
    const kwhPerGb = 10 ** range.value;
    shown.value = digits.format(kwhPerGb);
    const rows = [...body.rows].map((row) => {
      const { f1, kwh, gb, intensity, network } = row.dataset;
      const transfer = gb * kwhPerGb;
      const kg = kwh * intensity + transfer * network;
      [f1 / kg, kg * 1e6, (100 * transfer) / (+kwh + transfer)].forEach((value, number) => {
        const cell = row.cells[number + 1];
        cell.textContent = digits.format(value);
        cell.dataset.sort = value;
      });
      return [f1 / kg, row];
    });
    body.append(...rows.sort((a, b) => b[0] - a[0]).map(([, row]) => row));
    document.querySelectorAll("#network th").forEach((head) => head.removeAttribute("aria-sort"));
  });
})();
