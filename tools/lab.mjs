// Drives a running JupyterLab in Debian's headless Chromium, as a person would.
//   node lab.mjs BASE_URL TOKEN NOTEBOOK OUT.png [STEP ...]
// Steps: run | wait:TEXT (in an output) | reload | interrupt | restart | shot | sleep-idle | signal:FILE (touches it)
import { chromium } from 'playwright-core';
import { writeFileSync } from 'node:fs';

const [base, token, notebook, png, ...steps] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage'],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 1500 } });
const dialogs = [];
page.on('dialog', dialog => {
  // Leaving a page with unsaved changes asks; that is the browser's, not an output's.
  if (dialog.type() === 'beforeunload') return dialog.accept();
  dialogs.push(dialog.message());
  return dialog.dismiss();
});

async function open(reset) {
  await page.goto(`${base}/lab/tree/${notebook}?token=${token}${reset ? '&reset' : ''}`, { waitUntil: 'domcontentloaded' });
  await page.locator('.jp-NotebookPanel:visible .jp-Cell').first().waitFor({ timeout: 60000 });
  await page.locator('.jp-NotebookPanel:visible .jp-Toolbar-kernelName', { hasText: 'Python 3' }).waitFor({ timeout: 60000 });
}
const idle = () => page.locator('.jp-NotebookPanel:visible .jp-Notebook-ExecutionIndicator[data-status="idle"]')
  .waitFor({ timeout: 120000, state: 'attached' });
async function menu(name, item) {
  await page.locator('.lm-MenuBar-itemLabel', { hasText: name }).click();
  await page.locator('.lm-Menu-itemLabel', { hasText: item }).click();
}

try {
  await open(true);
  await idle();  // a run before the kernel is connected is dropped silently
  for (const step of steps) {
    const [verb, ...rest] = step.split(':');
    const text = rest.join(':');
    if (verb === 'run') await menu(/^Run$/, /^Run All Cells$/);
    else if (verb === 'wait') await page.locator('.jp-OutputArea-output', { hasText: text }).first().waitFor({ timeout: 120000 });
    else if (verb === 'reload') {
      await menu(/^File$/, /^Save Notebook$/);
      await open(false);
    } else if (verb === 'interrupt') await menu(/^Kernel$/, /^Interrupt Kernel$/);
    else if (verb === 'restart') {
      await menu(/^Kernel$/, /^Restart Kernel…$/);
      await page.locator('.jp-Dialog button', { hasText: 'Restart' }).click();
      await idle();
    } else if (verb === 'signal') writeFileSync(text, '');
    else if (verb === 'idle') await idle();
    else if (verb === 'shot') {
      await page.addStyleTag({ content: '.Toastify, .jp-Notification-Center { display: none !important }' });
      const close = page.locator('.Toastify__close-button');
      if (await close.count()) await close.first().click();
      await page.locator('.jp-SideBar.jp-mod-left .lm-TabBar-tab[aria-selected="true"]').first().click().catch(() => {});
      if (text) await page.locator('.jp-OutputArea-output', { hasText: text }).first().scrollIntoViewIfNeeded();
      await page.waitForTimeout(500);
      await page.screenshot({ path: png });
    } else throw new Error(`unknown step ${step}`);
    console.log(`done: ${step}`);
  }
  console.log(`dialogs: ${dialogs.length}`);
  const outputs = await page.locator('.jp-OutputArea-output').allInnerTexts();
  console.log(JSON.stringify(outputs));
} catch (error) {
  await page.screenshot({ path: png.replace(/\.png$/, '.failed.png') }).catch(() => {});
  console.error(String(error));
  process.exitCode = 1;
} finally {
  await browser.close();
}
