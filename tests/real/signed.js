// Whose signature: an application checks logout tokens with the keys it finds where it looks for its provider's. Three ways to be found there: the provider's own key, imported;
// logoutd's key in the provider's JWKS, through a rotation; and an address of the provider's that a proxy answers with logoutd's JWKS, which has both.

import assert from 'node:assert/strict';
import { attachLogoutd } from '../../examples/providers/node-oidc-provider/logoutd.js';
import { headerOf, startApplication } from './application.js';
import { Browser } from './browser.js';
import { eventually } from './checks.js';
import { listen } from './listen.js';
import { inside, out, signIn } from './people.js';
import { signingKey, startProvider } from './provider.js';
import { registration } from './world.js';

/** An application's library looks for an unknown key once in 30 s: so long a successor must be published before it signs. */
export const CACHE_S = 32;
const ROTATED_MS = (CACHE_S + 20) * 1000;

/** Runs the scenario against a logoutd that has just started. */
export async function signed(logoutd, doors, { check, must }) {
  await Promise.all([imported(), published(), proxied(), ill()]);

  async function imported() {
    const key = signingKey();
    const world = await start('imported', { key }, { published_at: 'provider' });
    await must("the provider's private key is imported, and signs under the kid that the provider publishes", async () => {
      await logoutd.ask('POST', `${world.api}/keys/import`, { jwk: key });
      const [own] = (await world.jwks()).keys;
      assert.equal((await keys(world, 'active'))[0].kid, own.kid);
    });
    await check('a logout signed with the imported key is accepted, and nothing of logoutd is published', async () => {
      const { kid } = await logsOut(world, 'alice');
      assert.deepEqual((await world.jwks()).keys.map((published) => published.kid), [kid]);
    });
  }

  async function published() {
    const world = await start('published', { publish: `${logoutd.url}/published/jwks` }, { published_at: 'provider' });
    let first;
    await must("logoutd's key is found in the provider's JWKS, and a logout signed with it is accepted", async () => {
      await eventually(async () => {
        const { body } = await logoutd.ask('POST', `${world.api}/keys/check`);
        assert.equal(body.good, true, JSON.stringify(body));
      });
      first = (await logsOut(world, 'alice')).kid;
    });
    await must('the key is rotated while bob is signed in, and the old one signs until the new one was visible for long enough', async () => {
      await logoutd.ask('POST', `${world.api}/keys/rotate`, {});
      await eventually(async () => assert.equal((await world.jwks()).keys.length, 3));
      const { body } = await logoutd.ask('POST', `${world.api}/keys/check`);
      assert.equal(body.keys.find(({ state }) => state === 'next').trouble, 'too_new');
      assert.equal((await logsOut(world, 'bob')).kid, first);
    });
    await check('then the new one signs, and is accepted at the first attempt', async () => {
      await eventually(async () => {
        const [active] = await keys(world, 'active');
        assert.notEqual(active.kid, first);
      }, ROTATED_MS);
      const { kid, receipt } = await logsOut(world, 'carol');
      assert.notEqual(kid, first);
      assert.equal(receipt.clients[0].attempts, 1);
    });
  }

  async function proxied() {
    // Behind the proxy the provider shows what it always showed.
    const behind = await listen();
    doors.push(behind);
    const world = await start('proxied', { behind }, { published_at: 'here', discovery: false, provider_jwks_uri: `${behind.url}/jwks` });
    await check('a proxy answers for the JWKS of the provider with that of logoutd, which has the keys of both', async () => {
      const { keys: both } = await eventually(async () => {
        const body = await world.jwks();
        assert.equal(body.keys.length, 2);
        return body;
      });
      const [own] = (await (await fetch(`${behind.url}/jwks`)).json()).keys;
      assert.ok(both.some((key) => key.kid === own.kid));
    });
    await check('sign-ins and logouts are both accepted with it', () => logsOut(world, 'alice'));
  }

  // Where logoutd's JWKS should be is a door that can be made to answer anything.
  async function ill() {
    const [op, door] = await Promise.all([listen(), listen()]);
    doors.push(op, door);
    let asked = 0;
    let answer = (response) => response.end(JSON.stringify({ keys: [{ kty: 'RSA', kid: 'of-logoutd', n: 'AQAB', e: 'AQAB' }] }));
    door.serve((_, response) => { asked += 1; answer(response); });
    startProvider({ door: op, clients: [], publish: door.url });
    const jwks = async () => (await fetch(`${op.url}/jwks`, { signal: AbortSignal.timeout(5_000) })).json();
    await check("the provider's JWKS stays as it is while logoutd answers with a problem, without JSON, or not at all", async () => {
      await eventually(async () => assert.equal((await jwks()).keys.at(-1).kid, 'of-logoutd'));
      for (const trouble of [
        (response) => response.writeHead(503).end(JSON.stringify({ type: 'urn:logoutd:problem:unavailable', status: 503 })),
        (response) => response.writeHead(503).end(JSON.stringify({ keys: [] })),
        (response) => response.end('{}'),
        (response) => response.end('<html>'),
        () => {},
      ]) {
        [answer, asked] = [trouble, 0];
        await eventually(() => assert.ok(asked > 2));
        assert.equal((await jwks()).keys.at(-1).kid, 'of-logoutd');
      }
    });
  }

  async function start(id, provider, terms) {
    const [op, door] = await Promise.all([listen(), listen()]);
    doors.push(op, door);
    const client = registration('wiki', door);
    const api = `/v1/issuers/${id}`;
    const { behind, ...options } = provider;
    const instance = startProvider({ door: op, clients: [client], ...options, ...(behind && { proxy: { behind, to: () => logoutd.keys(id) } }) });
    await logoutd.ask('POST', '/v1/issuers', { id, issuer: op.url, signing_algs: ['RS256'], discovery: true, ...terms });
    await logoutd.ask('PUT', `${api}/clients/wiki`, client);
    const { body: { token } } = await logoutd.ask('POST', '/v1/api-tokens', { role: 'provider', issuer: id });
    const reporter = attachLogoutd(instance, { url: logoutd.url, issuer: id, token, retryMaxMs: 1_000 });
    const sessions = [];
    instance.on('authorization.success', (ctx) => sessions.push(ctx.oidc.session.uid));
    const wiki = startApplication({ door, issuer: op.url, client, scope: 'openid profile' });
    return { api, reporter, sessions, wiki, jwks: async () => (await fetch(`${op.url}/jwks`)).json() };
  }

  async function keys({ api }, state) {
    const { body } = await logoutd.ask('GET', `${api}/keys`);
    return body.items.filter((key) => key.state === state);
  }

  // Signs in, is thrown out through logoutd, and is out: by a token that the application accepted.
  async function logsOut({ api, reporter, sessions, wiki }, account) {
    const browser = new Browser();
    await signIn(browser, wiki, account);
    await inside(browser, wiki, '');
    await eventually(() => assert.equal(reporter.waiting, 0));
    const { body: receipt } = await logoutd.ask(
      'POST', `${api}/logouts`, { target: { sid: sessions.at(-1) }, reason: 'admin' }, { headers: { prefer: 'wait=10' } },
    );
    assert.equal(receipt.clients[0]?.state, 'delivered', JSON.stringify(receipt));
    await out(browser, wiki);
    const { token, status } = wiki.logoutTokens.at(-1);
    assert.equal(status, 204);
    return { kid: headerOf(token).kid, receipt };
  }
}
