// What people do with a browser, and what they see.

import assert from 'node:assert/strict';
import { credentials } from './provider.js';

const FORMS_MAX = 4;

/** Opens the protected page and answers the provider's forms until the page is there. */
export async function signIn(browser, application, account) {
  const before = application.signIns.length;
  let page = await browser.open(application.page);
  let forms = 0;
  for (; page.url.href !== application.page && forms < FORMS_MAX; forms += 1) {
    page = await browser.submit(page, credentials(account));
  }
  assert.equal(page.url.href, application.page, `ended at ${page.url.origin}${page.url.pathname}: ${page.status} ${page.body.slice(0, 300)}`);
  assert.equal(page.status, 200);
  assert.equal(application.signIns.length, before + 1, 'the application did not take a sign-in');
  return { ...application.signIns.at(-1), forms };
}

/** The protected page is there at once. */
export async function inside(browser, application, name) {
  const page = await browser.get(application.page);
  assert.equal(page.status, 200, `${application.id} sends to ${page.location?.origin ?? page.status}`);
  assert.ok(page.body.includes(name), page.body);
}

/** The application sends to its provider. */
export async function out(browser, application) {
  const page = await browser.get(application.page);
  assert.equal(page.status, 302, `${application.id} shows the page`);
  assert.equal(page.location.origin + page.location.pathname, `${application.issuer}/auth`);
}

/** Signs out at the provider, everywhere. */
export async function signOut(browser, provider) {
  const page = await browser.open(`${provider}/session/end`);
  return browser.submit(page, { logout: 'yes' });
}

/** Signs out of one application and stays signed in at the provider: the other button of the same page. */
export async function leave(browser, application) {
  const page = await browser.open(`${application.issuer}/session/end?client_id=${application.id}`);
  return browser.submit(page, {});
}
