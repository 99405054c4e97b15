// The sample endpoint of examples/relying-parties as a process of its own, between a provider that publishes keys and whoever sends it tokens.

import { spawn } from 'node:child_process';
import { generateKeyPairSync, randomUUID, sign } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createConnection, createServer as createSocket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

export const SAMPLE = 'examples/relying-parties/receiver.mjs';
const ISSUER = 'https://op.example.com';
const EVENT = 'http://schemas.openid.net/event/backchannel-logout';
const PATIENCE_MS = 30_000;
const STARTS_MAX = 3;

const rsa = pair('rsa', { modulusLength: 2048 });
const other = pair('rsa', { modulusLength: 2048 });
const ec = pair('ec', { namedCurve: 'P-256' });
const PUBLISHED = { keys: [{ ...rsa.jwk, kid: 'good', use: 'sig', alg: 'RS256' }] };

function pair(...kind) {
  const { privateKey, publicKey } = generateKeyPairSync(...kind);
  return { privateKey, jwk: publicKey.export({ format: 'jwk' }) };
}

/** A good token, but for what is said; `undefined` takes a member away. */
function token(claims = {}, header = {}, key = rsa) {
  const now = Math.floor(Date.now() / 1000);
  const whole = { iss: ISSUER, aud: 'wiki', iat: now, exp: now + 120, jti: randomUUID(), sub: 'bob', sid: 's-1', events: { [EVENT]: {} }, ...claims };
  return signed({ alg: 'RS256', kid: 'good', typ: 'logout+jwt', ...header }, whole, key);
}

function signed(header, claims, key = rsa) {
  const text = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  return `${text}.${sign('sha256', Buffer.from(text), key.privateKey).toString('base64url')}`;
}

const ago = (seconds) => Math.floor(Date.now() / 1000) - seconds;

/** A provider, and the sample that trusts it. */
class World {
  static async open(root, work, { options = [], published = PUBLISHED } = {}) {
    const world = new World();
    world.asked = 0;
    world.publish(200, published);
    world.provider = createServer((request, response) => {
      world.asked += 1;
      response.writeHead(world.status, { 'Content-Type': 'application/json' });
      response.end(world.body);
    }).listen(0, '127.0.0.1');
    await once(world.provider, 'listening');
    world.jwks = `http://127.0.0.1:${world.provider.address().port}/jwks`;
    world.file = join(mkdtempSync(join(work, 'receiver-')), 'receiver.pid');
    // Another process may take the port between our choice and its start.
    for (let starts = 1; !await world.start(root, options); starts += 1) {
      if (starts === STARTS_MAX) throw new Error(`${SAMPLE} does not begin to listen:\n${world.printed}`);
    }
    return world;
  }

  async start(root, options) {
    const port = await freePort();
    this.url = `http://127.0.0.1:${port}/backchannel-logout`;
    this.printed = '';
    const all = ['--listen', `127.0.0.1:${port}`, '--issuer', ISSUER, '--client-id', 'wiki', '--jwks', this.jwks, ...options];
    this.sample = spawn(process.execPath, [join(root, SAMPLE), ...all], { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    for (const output of [this.sample.stdout, this.sample.stderr]) output.on('data', (data) => { this.printed += data; });
    writeFileSync(this.file, String(this.sample.pid));
    for (const deadline = Date.now() + PATIENCE_MS; Date.now() < deadline && this.sample.exitCode === null; await pause(10)) {
      if (await listens(port)) return true;
    }
    await this.stop();
    return false;
  }

  /** From now on the provider answers so. */
  publish(status, body) {
    [this.status, this.body] = [status, typeof body === 'string' ? body : JSON.stringify(body)];
  }

  /** What the sample says to a token, or to a whole body: its status, and the description of an error. */
  async says(sent, body = new URLSearchParams({ logout_token: sent })) {
    const answer = await fetch(this.url, { method: 'POST', body, signal: AbortSignal.timeout(PATIENCE_MS) });
    const text = await answer.text();
    return text === '' ? String(answer.status) : `${answer.status} ${JSON.parse(text).error_description}`;
  }

  async stop() {
    if (this.sample.exitCode === null && this.sample.signalCode === null) {
      const exited = once(this.sample, 'exit');
      this.sample.kill('SIGKILL');
      await exited;
    }
    rmSync(this.file, { force: true });
  }

  async close() {
    await this.stop();
    this.provider.closeAllConnections();
    this.provider.close();
  }
}

async function freePort() {
  const socket = createSocket().listen(0, '127.0.0.1');
  await once(socket, 'listening');
  const { port } = socket.address();
  socket.close();
  await once(socket, 'close');
  return port;
}

function listens(port) {
  return new Promise((resolve) => {
    const socket = createConnection({ host: '127.0.0.1', port });
    socket.once('connect', () => { socket.destroy(); resolve(true); });
    socket.once('error', () => resolve(false));
  });
}

/** Asks for each of `[what, token, expected]`, and complains of what is answered otherwise. */
async function each(world, cases) {
  const complaints = [];
  for (const [what, sent, expected] of cases) {
    const said = await world.says(sent);
    if (said !== expected) complaints.push(`${what}: ${said}, not ${expected}`);
  }
  return complaints;
}

const MINE = 'typ is that of another kind of token';
const NO_JWT = '400 it is not a signed JWT';
const OLD = '400 it has expired, or is too old';

/** What holds, how the world is set, and what is tried in it. */
const CHECKS = [
  ['a token without typ, with JWT or with logout+jwt is obeyed, and one of any other typ is not', {}, (world) => each(world, [
    ...[undefined, 'JWT', 'jwt', 'logout+jwt', 'Logout+JWT', 'application/logout+jwt'].map((typ) => [`typ ${typ}`, token({}, { typ }), '200']),
    ...['at+jwt', 'secevent+jwt', 'token-introspection+jwt', 'application/at+jwt', '', 7, null, { toString: 1 }, ['at+jwt']]
      .map((typ) => [`typ ${JSON.stringify(typ)}`, token({}, { typ }), `400 ${MINE}`]),
  ])],
  ['a token without exp, too old or expired is refused', {}, (world) => each(world, [
    ['no exp', token({ exp: undefined }), '400 exp is missing'],
    ['no exp, and old', token({ exp: undefined, iat: ago(3600) }), '400 exp is missing'],
    ['an exp that is no number', token({ exp: String(ago(-60)) }), '400 exp is missing'],
    ['an exp of null', token({ exp: null }), '400 exp is missing'],
    ['expired a moment ago', token({ exp: ago(30) }), '200'],
    ['expired', token({ exp: ago(90) }), OLD],
    ['good for a day, and ten minutes old', token({ iat: ago(590), exp: ago(-86_400) }), '200'],
    ['good for a day, and an hour old', token({ iat: ago(3600), exp: ago(-86_400) }), OLD],
    ['of the future', token({ iat: ago(-300), exp: ago(-400) }), '400 iat is missing, or in the future'],
    ['no iat', token({ iat: undefined }), '400 iat is missing, or in the future'],
  ])],
  ['where the provider sends no exp such tokens are taken for two minutes', { options: ['--without-exp'] }, (world) => each(world, [
    ['fresh', token({ exp: undefined }), '200'],
    ['two minutes old, and within the leeway', token({ exp: undefined, iat: ago(150) }), '200'],
    ['four minutes old', token({ exp: undefined, iat: ago(240) }), OLD],
    ['an exp of null', token({ exp: null }), '400 exp is missing'],
    ['expired', token({ exp: ago(90) }), OLD],
  ])],
  ['a token is obeyed once as long as it could be taken', { options: ['--without-exp'] }, async (world) => {
    const complaints = [];
    const tokens = {
      fresh: token(),
      'within the leeway': token({ iat: ago(170), exp: ago(50) }),
      'good for a day': token({ iat: ago(640), exp: ago(-86_400) }),
      'without exp': token({ iat: ago(160), exp: undefined }),
    };
    for (const [what, sent] of Object.entries(tokens)) complaints.push(...await each(world, [[what, sent, '200'], [`${what}, again`, sent, '400 the jti was used']]));
    complaints.push(...await each(world, [['no jti', token({ jti: undefined }), '400 the jti is missing'], ['a jti of 7', token({ jti: 7 }), '400 the jti is missing']]));
    // Until it cannot be taken any more, and not a moment less.
    const dying = token({ exp: ago(54) });
    const said = new Set();
    for (const deadline = Date.now() + PATIENCE_MS; !said.has(OLD) && Date.now() < deadline; await pause(50)) said.add(await world.says(dying));
    if ([...said].join() !== ['200', '400 the jti was used', OLD].join()) complaints.push(`one that expires meanwhile: ${[...said]}`);
    return complaints;
  }],
  ['of the same token sent ten times at once, before there are keys, one is obeyed', {}, async (world) => {
    const sent = token();
    const said = (await Promise.all(Array.from({ length: 10 }, () => world.says(sent)))).sort();
    const expected = ['200', ...Array(9).fill('400 the jti was used')];
    return [
      ...(said.join() === expected.join() ? [] : [said.join()]),
      ...(world.asked === 1 ? [] : [`the keys were fetched ${world.asked} times`]),
    ];
  }],
  ...[
    ['an error, whatever its body', 503, { error: 'temporarily_unavailable' }], ['an error with a set of keys', 500, PUBLISHED], ['a page', 200, '<html>'],
    ['nothing', 200, ''], ['no set of keys', 200, {}], ['null', 200, null], ['keys that are no list', 200, { keys: { good: PUBLISHED.keys[0] } }],
  ].map(([what, status, body]) => [`keys that cannot be had are 503, and the address is left alone for a while: ${what}`, {}, async (world) => {
    world.publish(status, body);
    const complaints = await each(world, [['once', token(), '503'], ['twice', token(), '503'], ['with an unknown key', token({}, { kid: 'new' }), '503']]);
    if (world.asked !== 1) complaints.push(`the keys were fetched ${world.asked} times`);
    return complaints;
  }]),
  ['when the keys can be had again the token is obeyed', {}, async (world) => {
    const sent = token();
    world.provider.closeAllConnections();
    const { port } = world.provider.address();
    await new Promise((resolve) => { world.provider.close(resolve); });
    const complaints = await each(world, [['away', sent, '503']]);
    world.provider.listen(port, '127.0.0.1');
    await once(world.provider, 'listening');
    let said = '503';
    for (const deadline = Date.now() + PATIENCE_MS; said === '503' && Date.now() < deadline; await pause(50)) said = await world.says(sent);
    return said === '200' ? complaints : [...complaints, `back: ${said}`];
  }],
  ['a known key is good while an unknown one cannot be looked for', {}, async (world) => {
    const complaints = await each(world, [['known', token(), '200']]);
    world.publish(503, '');
    let said = '400 nobody published that key';
    // Within its cool-down the last look counts; after it there is no telling.
    for (const deadline = Date.now() + PATIENCE_MS; said.startsWith('400') && Date.now() < deadline; await pause(50)) said = await world.says(token({}, { kid: 'new' }));
    if (said !== '503') complaints.push(`unknown: ${said}`);
    return [...complaints, ...await each(world, [['unknown, again', token({}, { kid: 'new' }), '503'], ['known, again', token(), '200']])];
  }],
  ['a key of an unknown kind, or for something else, stands in nobody\'s way', {
    published: { keys: [
      null, 7, 'key', { kty: 'AKP', kid: 'post-quantum', alg: 'ML-DSA-44', pub: 'AAAA' }, { kty: 'RSA', kid: 'broken' }, { kid: 'empty' },
      { ...other.jwk, kid: 'enc', use: 'enc' }, ...PUBLISHED.keys, { ...ec.jwk, kid: 'good', use: 'sig' },
    ] },
  }, (world) => each(world, [
    ['the good one', token(), '200'],
    ['one for encryption', token({}, { kid: 'enc' }, other), '400 nobody published that key'],
    ['one that is not understood', token({}, { kid: 'post-quantum' }), '400 nobody published that key'],
    ['one that nobody has', token({}, { kid: undefined }), '400 nobody published that key'],
    ['signed by another', token({}, {}, other), '400 the signature is wrong'],
  ])],
  ['what is no logout token is refused by a sentence of the endpoint\'s own', {}, async (world) => {
    const complaints = await each(world, [
      ['no JWT', 'x', NO_JWT], ['three dots', '...', NO_JWT], ['no octets', '..', NO_JWT], ['no JSON', 'eA.eA.eA', NO_JWT],
      ...[null, 7, 'x', [], true].flatMap((part) => [
        [`a header of ${JSON.stringify(part)}`, signed(part, {}), NO_JWT],
        [`claims of ${JSON.stringify(part)}`, signed({ alg: 'RS256', kid: 'good' }, part), NO_JWT],
      ]),
      ...['none', 'HS256', 'ES256', 'rs256', undefined, null, 7, { toString: 1 }].map((alg) => [`alg ${JSON.stringify(alg)}`, token({}, { alg }), '400 alg is not RS256']),
      ['crit', token({}, { crit: ['exp'] }), '400 crit asks for what nobody here understands'],
      ...[undefined, null, 7, `${ISSUER}/`].map((iss) => [`iss ${iss}`, token({ iss }), '400 iss is somebody else']),
      ...[undefined, null, 7, [], 'shop', ['shop'], { wiki: 1 }].map((aud) => [`aud ${JSON.stringify(aud)}`, token({ aud }), '400 aud is somebody else']),
      ['aud among others', token({ aud: ['shop', 'wiki'] }), '200'],
      ['neither sub nor sid', token({ sub: undefined, sid: undefined }), '400 neither sub nor sid'],
      ...[null, '', 7, {}].flatMap((name) => [
        [`sub ${JSON.stringify(name)}`, token({ sub: name }), '400 sub or sid is no name'],
        [`sid ${JSON.stringify(name)}`, token({ sid: name }), '400 sub or sid is no name'],
      ]),
      ['a sub alone', token({ sid: undefined }), '200'],
      ['a sid alone', token({ sub: undefined }), '200'],
      ...[undefined, null, 7, [], 'x', {}, { [EVENT]: null }, { [EVENT]: [] }, { [EVENT]: true }]
        .map((events) => [`events ${JSON.stringify(events)}`, token({ events }), '400 it is not about a logout']),
      ['a nonce', token({ nonce: null }), '400 there is a nonce'],
    ]);
    for (const [body, expected] of [
      [new URLSearchParams(), '400 there must be one logout_token'],
      [new URLSearchParams([['logout_token', token()], ['logout_token', token()]]), '400 there must be one logout_token'],
    ]) {
      const said = await world.says(null, body);
      if (said !== expected) complaints.push(`${body}: ${said}`);
    }
    if (/Error/.test(world.printed)) complaints.push(`something went wrong in it:\n${world.printed}`);
    return complaints;
  }],
];

/** Every check of the sample: `[what, complaints]`. They run side by side, each with a process of its own. */
export async function checkReceiver(root, work) {
  return Promise.all(CHECKS.map(async ([what, setting, tried]) => {
    let world;
    try {
      world = await World.open(root, work, setting);
      return [what, await tried(world)];
    } catch (error) {
      return [what, [`${error.stack}\n${world?.printed ?? ''}`]];
    } finally {
      await world?.close();
    }
  }));
}
