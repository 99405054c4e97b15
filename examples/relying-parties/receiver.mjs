// A relying party's back-channel logout endpoint: one file, no dependencies, Node.js 20 or later.
//
//   node receiver.mjs --listen 127.0.0.1:9000 --issuer https://op.example.com --client-id wiki --jwks http://127.0.0.1:8080/main/jwks
//
// It verifies each logout token by Back-Channel Logout 1.0, 2.6, step by step, and says what an application would do. A real application looks up the
// sessions it keeps by (`iss`, `sub`, `sid`) instead, in a store that all its instances share.

import { constants, createPublicKey, verify } from 'node:crypto';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';

const EVENT = 'http://schemas.openid.net/event/backchannel-logout';
/** How far the clocks of the provider and of this machine may differ, in seconds. */
const LEEWAY_S = 60;
/** In characters. */
const BODY_MAX = 64 * 1024;
/** How long a set of keys is kept, and how soon it is fetched anew for a `kid` that it lacks. */
const KEYS_MAX_AGE_MS = 3_600_000;
const KEYS_COOL_DOWN_MS = 5_000;

const { values: settings } = parseArgs({
  options: Object.fromEntries(['listen', 'issuer', 'client-id', 'jwks', 'alg'].map((name) => [name, { type: 'string' }])),
});
/** What this application is registered with as `id_token_signed_response_alg`. */
const alg = settings.alg ?? 'RS256';
const pss = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST };
const ec = { dsaEncoding: 'ieee-p1363' };
/** How each algorithm is verified: the hash, the type of key, and what else (RFC 7518 3, RFC 8037 3.1). */
const ALGORITHMS = {
  RS256: ['sha256', 'rsa'], RS384: ['sha384', 'rsa'], RS512: ['sha512', 'rsa'],
  PS256: ['sha256', 'rsa', pss], PS384: ['sha384', 'rsa', pss], PS512: ['sha512', 'rsa', pss],
  ES256: ['sha256', 'ec', ec], ES384: ['sha384', 'ec', ec], EdDSA: [null, 'ed25519'],
};
const [hash, keyType, how] = ALGORITHMS[alg];

let keys = { fetchedAt: -Infinity, byKid: new Map() };
/** The `jti` of each token that was obeyed, until it has expired anyhow. */
const seen = new Map();

createServer(async (request, response) => {
  // No cookie, no session, no CSRF token: the caller is a server, and the signature is its proof.
  if (request.method !== 'POST' || request.url !== '/backchannel-logout') return answer(response, 404);
  try {
    const token = await tokenOf(request);
    const claims = await check(token, Date.now() / 1000);
    logOut(claims);
    seen.set(claims.jti, claims.exp ?? claims.iat + 600);
    return answer(response, 200);
  } catch (error) {
    console.log(`refused: ${error.message}`);
    // What cannot be judged now may be good in a second: 503 is asked again soon, 400 is taken for a bad token.
    if (error instanceof Away) return answer(response, 503);
    return answer(response, 400, { error: 'invalid_request', error_description: error.message });
  }
}).listen(Number(new URL(`http://${settings.listen}`).port), new URL(`http://${settings.listen}`).hostname);

class Away extends Error {}

function answer(response, status, body) {
  response.writeHead(status, { 'Cache-Control': 'no-store', ...(body && { 'Content-Type': 'application/json' }) });
  response.end(body && JSON.stringify(body));
}

/** 2.5: one form field. */
async function tokenOf(request) {
  let body = '';
  for await (const chunk of request) {
    body += chunk;
    if (body.length > BODY_MAX) throw new Error('the body is too large');
  }
  const tokens = new URLSearchParams(body).getAll('logout_token');
  if (tokens.length !== 1) throw new Error('there must be one logout_token');
  return tokens[0];
}

/** 2.6, in its order. */
async function check(token, now) {
  const parts = token.split('.');
  if (parts.length !== 3) throw new Error('it is not a signed JWT'); // (1): nothing encrypted was agreed on
  const [header, claims] = parts.slice(0, 2).map((part) => JSON.parse(Buffer.from(part, 'base64url').toString()));
  if (header.alg !== alg) throw new Error(`alg is ${header.alg}, not ${alg}`); // (3): never what the token chooses
  const key = await keyFor(header.kid); // (2)
  if (!isSignedWith(key, parts)) throw new Error('the signature is wrong');
  // Not of the specification, but what keeps other JWTs of the provider out (RFC 8725 3.11).
  if (header.typ !== undefined && header.typ.toLowerCase() !== 'logout+jwt') throw new Error('typ is not logout+jwt');
  if (claims.iss !== settings.issuer) throw new Error('iss is somebody else'); // (4), to the letter
  if (![].concat(claims.aud).includes(settings['client-id'])) throw new Error('aud is somebody else');
  if (typeof claims.iat !== 'number' || claims.iat > now + LEEWAY_S) throw new Error('iat is in the future');
  if (claims.exp !== undefined && claims.exp <= now - LEEWAY_S) throw new Error('it has expired');
  if (!named(claims.sub) && !named(claims.sid)) throw new Error('neither sub nor sid'); // (5)
  if (typeof claims.events?.[EVENT] !== 'object' || claims.events[EVENT] === null) throw new Error('it is not about a logout'); // (6)
  if ('nonce' in claims) throw new Error('there is a nonce'); // (7)
  for (const [jti, until] of seen) if (until < now - LEEWAY_S) seen.delete(jti);
  if (typeof claims.jti !== 'string' || seen.has(claims.jti)) throw new Error('the jti is missing, or was used'); // (8)
  return claims;
}

function isSignedWith(key, [header, payload, signature]) {
  if (key.asymmetricKeyType !== keyType) return false;
  return verify(hash, Buffer.from(`${header}.${payload}`), { key, ...how }, Buffer.from(signature, 'base64url'));
}

const named = (value) => typeof value === 'string' && value !== '';

/** The provider's key of that name. An unknown name is a reason to look again, and not more often than every few seconds. */
async function keyFor(kid) {
  const age = Date.now() - keys.fetchedAt;
  if (age > KEYS_MAX_AGE_MS || (!keys.byKid.has(kid) && age > KEYS_COOL_DOWN_MS)) await fetchKeys();
  if (!keys.byKid.has(kid)) throw new Error('nobody published that key');
  return keys.byKid.get(kid);
}

async function fetchKeys() {
  const set = await fetch(settings.jwks, { signal: AbortSignal.timeout(3_000) }).then((got) => got.json()).catch(() => { throw new Away('the keys cannot be had'); });
  const signing = set.keys.filter((jwk) => jwk.use === undefined || jwk.use === 'sig');
  keys = { fetchedAt: Date.now(), byKid: new Map(signing.map((jwk) => [jwk.kid, createPublicKey({ key: jwk, format: 'jwk' })])) };
}

/** 2.7. With a `sid`, that session and no other; without one, everything of this person. That there is none left is no failure. */
function logOut({ sub, sid }) {
  console.log(sid === undefined ? `every session of ${sub} ends` : `session ${sid} ends`);
}
