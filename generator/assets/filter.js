// Filters a table by words and by what its rows say of themselves; the choice is kept in the address, so that it can be shared.
document.querySelectorAll("form.pn-filter").forEach(form => {
  const rows = () => [...document.querySelectorAll("#rows tbody tr")];
  const said = form.querySelector("output");
  const show = () => {
    const chosen = [...new FormData(form)].filter(([, value]) => value);
    const words = (form.elements.q.value || "").toLowerCase().split(/\s+/).filter(Boolean);
    const all = rows();
    let shown = 0;
    all.forEach(row => {
      const text = row.textContent.toLowerCase();
      const fits = words.every(word => text.includes(word)) && chosen.every(([name, value]) =>
        name === "q" || (row.dataset[name] || "").split("|").includes(value));
      row.hidden = !fits;
      shown += fits;
    });
    said.textContent = chosen.length ? `${shown} of ${all.length}` : "";
    const query = new URLSearchParams(chosen).toString();
    history.replaceState(null, "", (query ? "?" + query : location.pathname) + location.hash);
  };
  new URLSearchParams(location.search).forEach((value, name) => {
    if (form.elements[name]) form.elements[name].value = value;
  });
  form.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  if (location.search) show();
});
