// Before anything is drawn: the colours that were chosen here, if any were.
'use strict';
try {
  const theme = localStorage.getItem('omni-theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be refused: then as the system has them.
}
