// The provider is told: an administrator throws somebody out. The applications are told either way; whether the person is back without a password depends on the
// provider's own session, which lives on unless it is told.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { attachLogoutd } from '../../examples/providers/node-oidc-provider/logoutd.js';
import { startApplication } from './application.js';
import { Browser } from './browser.js';
import { eventually } from './checks.js';
import { listen } from './listen.js';
import { inside, out, signIn, signOut } from './people.js';
import { startProvider } from './provider.js';
import { API, registration } from './world.js';

/** Runs the scenario against a logoutd that has just started. */
export async function told(logoutd, doors, { check, must }) {
  const [op, wikiDoor] = await Promise.all([listen(), listen()]);
  doors.push(op, wikiDoor);
  const client = registration('wiki', wikiDoor);
  const endSessionSecret = randomBytes(32).toString('base64url');
  const provider = startProvider({
    door: op,
    clients: [{ ...client, backchannel_logout_uri: `${logoutd.url}/op/backchannel-logout` }],
    publish: `${logoutd.url}/op/jwks`,
    endSessionSecret,
    sends: true,
  });
  await logoutd.ask('POST', '/v1/issuers', { id: 'op', issuer: op.url, signing_algs: ['RS256'], discovery: true, published_at: 'provider' });
  await logoutd.ask('PUT', `${API}/clients/wiki`, client);
  const { body: { token } } = await logoutd.ask('POST', '/v1/api-tokens', { role: 'provider', issuer: 'op' });
  const reporter = attachLogoutd(provider, { url: logoutd.url, issuer: 'op', token, retryMaxMs: 1_000 });
  const wiki = startApplication({ door: wikiDoor, issuer: op.url, client, scope: 'openid profile' });
  const sessions = [];
  provider.on('authorization.success', (ctx) => sessions.push(ctx.oidc.session.uid));

  await must('logoutd finds its key in the JWKS that the provider publishes', () => eventually(async () => {
    const { body } = await logoutd.ask('POST', `${API}/keys/check`);
    assert.equal(body.good, true, JSON.stringify(body));
  }));

  const alices = new Browser();
  await must('alice signs in at the wiki', () => signsIn(alices, 'alice'));
  await check('an administrator ends her session, and the receipt says that the provider was not told', async () => {
    const receipt = await kill(sessions.at(-1));
    assert.equal(receipt.provider, 'not_told');
    await out(alices, wiki);
  });
  await check('she is back at once, and nobody asked for a password', async () => {
    assert.equal((await signIn(alices, wiki, 'alice')).forms, 0);
    await inside(alices, wiki, 'Alice');
  });

  await must("the provider's own way of ending a session is registered", () => logoutd.ask('PATCH', API, {
    provider_logout: {
      preset: 'http',
      method: 'DELETE',
      url: `${op.url}/logoutd/sessions/{sid}`,
      success: [204, 404],
      auth: { type: 'bearer', token: endSessionSecret },
    },
  }));
  const bobs = new Browser();
  await must('bob signs in at the wiki', () => signsIn(bobs, 'bob'));
  await check('an administrator ends his session, and the receipt says that the provider was told', async () => {
    const receipt = await kill(sessions.at(-1));
    assert.equal(receipt.provider, 'told');
    assert.equal(await provider.Session.findByUid(sessions.at(-1)), undefined);
    await out(bobs, wiki);
  });
  await check('the wiki sends him to the provider, which asks for his password', async () => {
    const page = await bobs.open(wiki.page);
    assert.equal(page.url.origin, op.url);
    assert.match(page.body, /name="password"/);
  });
  await check("what the provider then reports ends nothing twice and tells nobody twice", async () => {
    await everythingReported();
    assert.equal(wiki.logoutTokens.length, 2);
    const { body: { items } } = await logoutd.ask('GET', `${API}/deliveries`);
    assert.deepEqual(items.map(({ kind }) => kind).sort(), ['logout_token', 'logout_token', 'provider']);
  });
  await check('after his password he is in again, in a session of his own', async () => {
    await signsIn(bobs, 'bob');
    await inside(bobs, wiki, 'Bob');
    const { body } = await logoutd.ask('GET', `${API}/sessions/${encodeURIComponent(sessions.at(-1))}`);
    assert.equal(body.state, 'live');
  });

  await check('when he signs out by himself, logoutd hears of it from the provider and from the adapter, and the wiki is told once', async () => {
    const before = wiki.logoutTokens.length;
    await signOut(bobs, op.url);
    await everythingReported();
    await eventually(async () => {
      const { body } = await logoutd.ask('GET', `${API}/sessions/${encodeURIComponent(sessions.at(-1))}`);
      assert.equal(body.state, 'ended');
      const { body: { items } } = await logoutd.ask('GET', `${API}/logouts?state=delivering`);
      assert.deepEqual(items, []);
    });
    const { body: { items } } = await logoutd.ask('GET', `${API}/logouts`);
    assert.deepEqual(items.slice(0, 2).map(({ reason }) => reason).sort(), ['upstream', 'user_logout']);
    assert.equal(wiki.logoutTokens.length, before + 1);
    await out(bobs, wiki);
  });
  await reporter.close();

  async function signsIn(browser, account) {
    const { forms } = await signIn(browser, wiki, account);
    assert.ok(forms > 0, 'nobody asked for a password');
    await everythingReported();
  }

  function everythingReported() {
    return eventually(() => assert.equal(reporter.waiting, 0, `${reporter.waiting} reports are still waiting`));
  }

  async function kill(sid) {
    const { body } = await logoutd.ask('POST', `${API}/logouts`, { target: { sid }, reason: 'admin' }, { headers: { prefer: 'wait=10' } });
    assert.equal(body.state, 'settled', JSON.stringify(body));
    assert.equal(body.sessions_ended, 1);
    return body;
  }
}
