// Filters a table by words and by what its rows say of themselves; the choice is kept in the address, so that it can be shared.
// A table of several pages is brought together on this one when it is first filtered or sorted.
document.querySelectorAll("form.pn-filter").forEach(form => {
  const body = () => document.querySelector("#rows tbody");  // sorting puts another in its place
  const said = form.querySelector("output");
  const pager = document.querySelector("nav.pn-pages");
  const texts = new Map();
  let gathered = pager ? null : Promise.resolve();

  const gather = () => gathered ??= (async () => {
    said.textContent = "loading every page";
    const own = [...body().rows];
    const parts = await Promise.all([...pager.children].map(async link => {
      if (!link.href) return own;
      const response = await fetch(link.href);
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      page.querySelectorAll("#rows tbody a").forEach(a => a.setAttribute("href", new URL(a.getAttribute("href"), link.href)));
      return [...page.querySelectorAll("#rows tbody tr")];
    }));
    body().replaceChildren(...parts.flat());
    pager.hidden = true;
  })().catch(() => {
    said.textContent = "the other pages could not be read";
    gathered = Promise.resolve();
  });

  const show = () => {
    const chosen = [...new FormData(form)].filter(([, value]) => value);
    const words = (form.elements.q.value || "").toLowerCase().split(/\s+/).filter(Boolean);
    if (chosen.length && !gathered) {
      gather().then(show);
      return;
    }
    let shown = 0;
    for (const row of body().rows) {
      if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
      const fits = words.every(word => texts.get(row).includes(word)) && chosen.every(([name, value]) =>
        name === "q" || (row.dataset[name] || "").split("|").includes(value));
      row.hidden = !fits;
      shown += fits;
    }
    said.textContent = chosen.length ? `${shown} of ${body().rows.length}` : "";
    const query = new URLSearchParams(chosen).toString();
    history.replaceState(null, "", (query ? "?" + query : location.pathname) + location.hash);
  };

  // Where the rows are stacked there are no headings to sort by: a list of them stands in.
  const heads = [...document.querySelectorAll("#rows thead th")];
  const order = document.createElement("label");
  order.className = "pn-order";
  order.append("Order ", document.createElement("select"));
  const select = order.querySelector("select");
  select.append(new Option("as built", ""), ...heads.map((head, n) => new Option(head.textContent.trim().toLowerCase(), n)));
  select.addEventListener("change", event => {
    event.stopPropagation();
    heads[select.value]?.querySelector("button").click();
  });
  form.querySelector("output").before(order);

  new URLSearchParams(location.search).forEach((value, name) => {
    if (form.elements[name]) form.elements[name].value = value;
  });
  if (pager) document.querySelector("#rows thead").addEventListener("click", async event => {
    if (!event.isTrusted || pager.hidden) return;
    event.stopPropagation();
    await gather();
    event.target.click();
    show();
  }, true);
  form.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  if (location.search) show();
});
