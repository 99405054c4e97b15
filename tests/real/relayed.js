// Relay: the provider sends its own logout tokens to logoutd instead of to the applications, and reports nothing. An application that is there gets the
// provider's token; one that was away gets it too while it is good, and afterwards one of logoutd's, whose key the provider publishes.
//
// The provider's logout tokens are good for two minutes. Its clock is behind, so that they are good for less when they arrive.

import assert from 'node:assert/strict';
import { claimsOf, headerOf, startApplication } from './application.js';
import { Browser } from './browser.js';
import { eventually } from './checks.js';
import { listen } from './listen.js';
import { inside, out, signIn, signOut } from './people.js';
import { startProvider } from './provider.js';
import { API, registration } from './world.js';

const TOKEN_LIFE_MS = 120_000;
const GOOD_FOR_MS = 40_000;
/** How soon an application is told that came back, given that some attempts failed before. */
const NOTICED_MS = 30_000;

/** Runs the scenario against a logoutd that has just started. */
export async function relayed(logoutd, doors, { check, must }) {
  const [op, wikiDoor, mailDoor] = await Promise.all([listen(), listen(), listen()]);
  doors.push(op, wikiDoor, mailDoor);
  const clients = [registration('wiki', wikiDoor), registration('mail', mailDoor)];
  const relay = `${logoutd.url}/op/backchannel-logout`;
  const provider = startProvider({
    door: op,
    clients: clients.map((client) => ({ ...client, backchannel_logout_uri: relay })),
    publish: `${logoutd.url}/op/jwks`,
    sends: true,
    slowMs: TOKEN_LIFE_MS - GOOD_FOR_MS,
  });
  const answers = [];
  provider.on('backchannel.success', (_, client) => answers.push(`${client.clientId} 200`));
  provider.on('backchannel.error', (_, error, client) => answers.push(`${client.clientId} ${error.message}`));

  await logoutd.ask('POST', '/v1/issuers', {
    id: 'op', issuer: op.url, signing_algs: ['RS256'], discovery: true, published_at: 'provider',
  });
  for (const client of clients) await logoutd.ask('PUT', `${API}/clients/${client.client_id}`, client);
  const [wiki, mail] = clients.map((client, index) => (
    startApplication({ door: [wikiDoor, mailDoor][index], issuer: op.url, client, scope: 'openid profile' })
  ));

  await must('logoutd finds its key in the JWKS that the provider publishes', () => eventually(async () => {
    const { body } = await logoutd.ask('POST', `${API}/keys/check`);
    assert.equal(body.good, true, JSON.stringify(body));
  }));

  // --- Everybody is there.
  const laptop = new Browser();
  const bobs = new Browser();
  await must('alice signs in at the wiki and the mail, bob at both', async () => {
    for (const [browser, account] of [[laptop, 'alice'], [bobs, 'bob']]) {
      await signIn(browser, wiki, account);
      await signIn(browser, mail, account);
    }
  });
  await check('she signs out at the provider, which tells logoutd about each application and is answered 200', async () => {
    await signOut(laptop, op.url);
    assert.deepEqual(answers.splice(0).sort(), ['mail 200', 'wiki 200']);
  });
  await check("both applications get the provider's own token, and she is out", async () => {
    await eventually(() => assert.deepEqual([wiki, mail].map(({ logoutTokens }) => logoutTokens.map(({ status }) => status)), [[204], [204]]));
    for (const application of [wiki, mail]) {
      const { token } = application.logoutTokens[0];
      assert.ok(await isProviders(token), 'it is signed by logoutd');
      assert.equal(claimsOf(token).aud, application.id);
      await out(laptop, application);
    }
  });
  // This provider shows each application a `sid` of its own, and reports nothing by which they could be known to be one session.
  await check('each application has a receipt of its own, and bob is still in', async () => {
    const { body: { items } } = await logoutd.ask('GET', `${API}/logouts?reason=upstream`);
    assert.deepEqual(items.map(({ target }) => target.client_id).sort(), ['mail', 'wiki']);
    for (const { id } of items) {
      const { body: { state, provider: toldProvider, deliveries } } = await logoutd.ask('GET', `${API}/logouts/${id}`);
      assert.deepEqual([state, deliveries.total, deliveries.delivered], ['settled', 1, 1]);
      assert.notEqual(toldProvider, 'pending');
    }
    await inside(bobs, wiki, 'Bob');
    await inside(bobs, mail, 'Bob');
  });

  // --- An application is away for a moment, and for longer than the provider's token is good.
  await check('the wiki is away when bob signs out, and gets that token when it is back soon', async () => {
    await wikiDoor.goAway();
    await signOut(bobs, op.url);
    assert.deepEqual(answers.splice(0).sort(), ['mail 200', 'wiki 200']);
    await wikiDoor.comeBack();
    const { token, status } = await next(wiki, 1);
    assert.equal(status, 204);
    assert.ok(await isProviders(token), 'it is signed by logoutd');
    await out(bobs, wiki);
  });
  const carols = new Browser();
  await check("the wiki is away for longer than the provider's token is good, and gets one of logoutd's", async () => {
    await signIn(carols, wiki, 'carol');
    await wikiDoor.goAway();
    const signedOut = Date.now();
    await signOut(carols, op.url);
    assert.deepEqual(answers.splice(0), ['wiki 200']);
    await eventually(() => assert.ok(Date.now() - signedOut > GOOD_FOR_MS, 'the token is good'), GOOD_FOR_MS + 5_000);
    await wikiDoor.comeBack();
    await retryNow();
    const { token, status } = await next(wiki, 2);
    assert.equal(status, 204);
    assert.ok(!await isProviders(token), 'it is signed by the provider');
    await out(carols, wiki);
  });

  async function next(application, index) {
    await eventually(() => assert.equal(application.logoutTokens.length, index + 1), NOTICED_MS);
    return application.logoutTokens[index];
  }

  async function isProviders(token) {
    const { body: { items } } = await logoutd.ask('GET', `${API}/keys`);
    return !items.some(({ kid, published_kid }) => [kid, published_kid].includes(headerOf(token).kid));
  }

  // What an operator does who knows that an application is back; without it the next attempt is the breaker's.
  async function retryNow() {
    const { body } = await logoutd.ask('GET', `${API}/deliveries?state=pending`);
    for (const { id } of body.items) await logoutd.ask('POST', `${API}/deliveries/${id}/retry`);
  }
}
