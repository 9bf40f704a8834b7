// Before anything is drawn: the colours that were chosen here (data-theme), else those of the system.
'use strict';
{
  const root = document.documentElement, system = matchMedia('(prefers-color-scheme: dark)');
  window.showColours = () => {
    root.dataset.colours = root.dataset.theme ?? (system.matches ? 'dark' : 'light');
  };
  try {
    const theme = localStorage.getItem('omni-theme');
    if (theme === 'light' || theme === 'dark') root.dataset.theme = theme;
  } catch {
    // Storage may be refused: then as the system has them.
  }
  window.showColours();
  system.addEventListener('change', window.showColours);
}
