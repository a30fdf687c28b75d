// Before anything is drawn, so that no page flashes in the other colours.
{
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* A browser that keeps nothing follows the system. */ }
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
}
