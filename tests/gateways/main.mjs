// The test: each gateway with a logoutd, a provider's keys and an application of its own, side by side, by the recipe in examples/gateways.

import { strict as assert } from 'node:assert';
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { checksOf, conclude, fail, failed, Stopped } from '../real/checks.js';
import { freePort, listen } from '../real/listen.js';
import { Logoutd } from '../real/logoutd.js';
import { Caddy, Nginx } from './gateways.mjs';

const WHOLE_TEST_MS = 60_000;
const REQUEST_MS = 10_000;
const ISSUER = 'https://id.example.com';
const IDENTITY = ['x-subject', 'x-session-id', 'x-client-id', 'x-scope'];
const FORGED = Object.fromEntries(['X-Subject', 'X-Session-Id', 'X-Client-Id', 'X-Scope', 'X_Subject'].map((name) => [name, 'forged']));
const GATEWAYS = { nginx: Nginx, caddy: Caddy };

const running = [];
const overall = setTimeout(() => abandon('everything ends in time', `not within ${WHOLE_TEST_MS} ms`), WHOLE_TEST_MS);
process.on('SIGTERM', () => abandon('nobody ends the test', 'SIGTERM'));
process.on('SIGINT', () => abandon('nobody ends the test', 'SIGINT'));

// The way out of a test that cannot go on.
function abandon(sentence, why) {
  fail(sentence, why);
  for (const program of running) {
    process.stderr.write(`${program.log()}\n`);
    program.kill();
  }
  process.exit(conclude());
}

const [directory, recipes, ...names] = process.argv.slice(2);
const chosen = Object.entries(GATEWAYS).filter(([name]) => names.length === 0 || names.includes(name));
await Promise.all(chosen.map(([name, Gateway]) => run(name, Gateway)));
clearTimeout(overall);
process.exit(conclude());

async function run(name, Gateway) {
  const home = join(directory, name);
  mkdirSync(home);
  const key = randomBytes(32).toString('base64url');
  const logoutd = new Logoutd(process.env.LOGOUTD_BIN, home, {
    LOGOUTD_CHECK__API__ISSUER: 'main', LOGOUTD_CHECK__API__SCOPES: 'read', LOGOUTD_CHECK__API__KEY: key,
  });
  const [provider, application] = [await listen(), await listen()];
  running.push(logoutd);
  const before = failed;
  let gateway;
  try {
    await logoutd.start();
    gateway = new Gateway(home, recipes, { logoutd: new URL(logoutd.url).host, application: new URL(application.url).host, key });
    running.push(gateway);
    await gateway.start(await freePort());
    await guarded({ gateway, logoutd, provider, application }, checksOf(name));
  } catch (error) {
    if (!(error instanceof Stopped)) fail(`${name}: it runs to its end`, error.stack);
  }
  await gateway?.stop();
  await logoutd.stop();
  provider.close();
  application.close();
  if (failed > before) process.stderr.write(`--- ${name}\n${gateway?.log()}\n--- its logoutd\n${logoutd.log()}\n`);
}

/** What must hold behind any gateway. */
async function guarded({ gateway, logoutd, provider, application }, { check, must }) {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const jwk = { ...publicKey.export({ format: 'jwk' }), kid: 'provider-1', alg: 'ES256', use: 'sig' };
  provider.serve((_, response) => response.setHeader('content-type', 'application/json').end(JSON.stringify({ keys: [jwk] })));
  const seen = [];
  application.serve((incoming, response) => {
    const chunks = [];
    incoming.on('data', (chunk) => chunks.push(chunk));
    incoming.on('end', () => {
      seen.push({ method: incoming.method, url: incoming.url, headers: incoming.headers, body: Buffer.concat(chunks) });
      response.statusCode = incoming.url === '/broken' ? 500 : 200;
      response.end('the application');
    });
  });

  function token(claims) {
    const now = Math.floor(Date.now() / 1000);
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const head = part({ alg: 'ES256', typ: 'at+jwt', kid: jwk.kid });
    const jti = randomBytes(8).toString('hex');
    const body = part({ iss: ISSUER, aud: 'api', iat: now, exp: now + 300, jti, client_id: 'wiki', sub: 'alice', scope: 'read', ...claims });
    const signature = sign('sha256', Buffer.from(`${head}.${body}`), { key: privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url');
    return `${head}.${body}.${signature}`;
  }

  /** A request through the gateway, with forged names in it: {status, headers, reached}, the last as the application saw it. */
  async function ask(path, bearer, { method = 'GET', body, headers = {} } = {}) {
    seen.length = 0;
    const answer = await send(new URL(path, gateway.url), {
      method, body, headers: { ...FORGED, ...headers, ...(bearer && { Authorization: `Bearer ${bearer}` }) },
    });
    return { ...answer, reached: seen[0] };
  }

  await must('an issuer, its client and a session are registered', async () => {
    await logoutd.ask('POST', '/v1/issuers', { id: 'main', issuer: ISSUER, signing_algs: ['ES256'], provider_jwks_uri: `${provider.url}/jwks` });
    await logoutd.ask('PUT', '/v1/issuers/main/clients/wiki', { id_token_signed_response_alg: 'ES256' });
    await logoutd.ask('PUT', '/v1/issuers/main/sessions/s-1', { sub: 'alice', participants: [{ client_id: 'wiki' }] });
  });
  const good = token({ sid: 's-1' });

  await must('a request with a good token reaches the application under the name of its subject and no forged one', async () => {
    const { status, reached } = await ask('/page?x=1', good);
    assert.equal(status, 200);
    assert.equal(reached.url, '/page?x=1');
    assert.deepEqual(IDENTITY.map((name) => reached.headers[name]), ['alice', 's-1', 'wiki', 'read']);
    assert.ok(!JSON.stringify(reached.headers).includes('forged'), JSON.stringify(reached.headers));
    assert.ok(!('logoutd-key' in reached.headers));
  });
  await check('of what is not known nothing forged is left', async () => {
    const { status, reached } = await ask('/', token({ sub: undefined, client_id: undefined }));
    assert.equal(status, 200);
    assert.ok(!JSON.stringify(reached.headers).includes('forged'), JSON.stringify(reached.headers));
    for (const name of ['x-subject', 'x-session-id', 'x-client-id']) assert.ok(!reached.headers[name], name);
  });
  await check('a body arrives whole', async () => {
    const body = randomBytes(300_000);
    const { status, reached } = await ask('/upload', good, { method: 'POST', body, headers: { 'Content-Type': 'application/octet-stream' } });
    assert.equal(status, 200);
    assert.ok(reached.method === 'POST' && reached.body.equals(body));
  });
  await check('without a token, or with a bad one, nothing reaches the application, and the answer says what is missing', async () => {
    for (const [bearer, challenge] of [
      [undefined, 'Bearer realm="main"'],
      [`${good}A`, 'Bearer realm="main", error="invalid_token"'],
      ['opaque', 'Bearer realm="main", error="invalid_token"'],
      [token({ exp: 1_000_000_000 }), 'Bearer realm="main", error="invalid_token"'],
      [token({ nonce: 'an ID token' }), 'Bearer realm="main", error="invalid_token"'],
    ]) {
      const { status, headers, reached } = await ask('/page', bearer, { method: 'POST', body: Buffer.from('a=b') });
      assert.deepEqual([status, headers['www-authenticate'], reached], [401, challenge, undefined]);
    }
    assert.equal((await ask(`/page?access_token=${good}`, undefined, { headers: { Cookie: `access_token=${good}` } })).status, 401);
  });
  await check('without the scope it is 403', async () => {
    const { status, headers, reached } = await ask('/page', token({ scope: 'other' }));
    assert.deepEqual([status, reached], [403, undefined]);
    assert.equal(headers['www-authenticate'], 'Bearer realm="main", error="insufficient_scope", scope="read"');
  });
  await check('an error of the application is its own', async () => {
    const { status, body } = await ask('/broken', good);
    assert.deepEqual([status, body], [500, 'the application']);
  });
  await check('the first request after the logout was answered is refused', async () => {
    assert.equal((await ask('/page', good)).status, 200);
    await logoutd.ask('POST', '/v1/issuers/main/logouts', { target: { sid: 's-1' }, reason: 'admin' });
    const { status, reached } = await ask('/page', good);
    assert.deepEqual([status, reached], [401, undefined]);
  });
  await check('while logoutd is away it is 503, and nothing reaches the application', async () => {
    await logoutd.stop();
    const { status, reached } = await ask('/page', token({}));
    assert.deepEqual([status, reached], [503, undefined]);
  });
}

/** One request on a connection of its own. */
function send(url, { method, headers, body }) {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, { method, headers, agent: false, timeout: REQUEST_MS }, (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks).toString() }));
      response.on('error', reject);
    });
    outgoing.on('timeout', () => outgoing.destroy(new Error('no answer')));
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}
