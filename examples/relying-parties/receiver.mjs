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
/** How old a token may be, however late it says that it expires; and one that does not say, where such are taken. In seconds. */
const AGE_MAX_S = 600;
const AGE_WITHOUT_EXP_MAX_S = 120;
/** In characters. */
const BODY_MAX = 64 * 1024;
/** What a `typ` may be, if there is one: 2.4 only recommends the first, and some providers write the second. */
const TYPES = ['logout+jwt', 'jwt'];
/** How long a set of keys is kept, and how soon it is fetched anew for a `kid` that it lacks, or when it could not be had. */
const KEYS_MAX_AGE_MS = 3_600_000;
const KEYS_COOL_DOWN_MS = 5_000;

const { values: settings } = parseArgs({
  options: {
    ...Object.fromEntries(['listen', 'issuer', 'client-id', 'jwks', 'alg'].map((name) => [name, { type: 'string' }])),
    // For a provider that sends no `exp`, such as Hydra, and for no other.
    'without-exp': { type: 'boolean', default: false },
  },
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

let keys = new Map();
let [keysFetchedAt, keysAskedAt] = [-Infinity, -Infinity];
let fetching = null;
/** Until when each `jti` that was obeyed is remembered: until no token with it could be taken any more. */
const seen = new Map();

createServer(async (request, response) => {
  // No cookie, no session, no CSRF token: the caller is a server, and the signature is its proof.
  if (request.method !== 'POST' || request.url !== '/backchannel-logout') return answer(response, 404);
  try {
    const token = await tokenOf(request);
    logOutOnce(await check(token, Date.now() / 1000), Date.now() / 1000);
    return answer(response, 200);
  } catch (error) {
    if (error instanceof Refused) {
      console.log(`refused: ${error.message}`);
      return answer(response, 400, { error: 'invalid_request', error_description: error.message });
    }
    // What cannot be judged now may be good in a second: 503 is asked again soon, 400 is taken for a bad token. What went wrong here, our log alone tells.
    console.error(error);
    return answer(response, error instanceof Away ? 503 : 500);
  }
}).listen(Number(new URL(`http://${settings.listen}`).port), new URL(`http://${settings.listen}`).hostname);

/** The token is bad. The message goes out to whoever sent it, and holds nothing of what was sent. */
class Refused extends Error {}
/** What is needed to judge the token is not there. */
class Away extends Error {}

function answer(response, status, body) {
  response.writeHead(status, { 'Cache-Control': 'no-store', ...(body && { 'Content-Type': 'application/json' }) });
  response.end(body && JSON.stringify(body));
}

/** 2.5: one form field. */
async function tokenOf(request) {
  let body = '';
  for await (const chunk of request.setEncoding('utf8')) {
    body += chunk;
    if (body.length > BODY_MAX) throw new Refused('the body is too large');
  }
  const tokens = new URLSearchParams(body).getAll('logout_token');
  if (tokens.length !== 1) throw new Refused('there must be one logout_token');
  return tokens[0];
}

/** 2.6, in its order, but for (8). */
async function check(token, now) {
  const parts = token.split('.');
  if (parts.length !== 3) throw new Refused('it is not a signed JWT'); // (1): nothing encrypted was agreed on
  const [header, claims] = parts.slice(0, 2).map(objectIn);
  if (header.alg !== alg) throw new Refused(`alg is not ${alg}`); // (3): never what the token chooses
  if (header.crit !== undefined) throw new Refused('crit asks for what nobody here understands'); // RFC 7515 4.1.11
  const key = await keyFor(header.kid); // (2)
  if (!isSignedWith(key, parts)) throw new Refused('the signature is wrong');
  // Not of the specification, but what keeps other JWTs of the provider out (RFC 8725 3.11).
  if (header.typ !== undefined && !TYPES.includes(mediaType(header.typ))) throw new Refused('typ is that of another kind of token');
  if (claims.iss !== settings.issuer) throw new Refused('iss is somebody else'); // (4), to the letter
  if (![].concat(claims.aud).includes(settings['client-id'])) throw new Refused('aud is somebody else');
  if (!Number.isFinite(claims.iat) || claims.iat > now + LEEWAY_S) throw new Refused('iat is missing, or in the future');
  if (!Number.isFinite(claims.exp) && !(claims.exp === undefined && settings['without-exp'])) throw new Refused('exp is missing'); // 2.4
  if (now >= goodUntil(claims)) throw new Refused('it has expired, or is too old');
  if (!['sub', 'sid'].every((name) => claims[name] === undefined || isName(claims[name]))) throw new Refused('sub or sid is no name');
  if (claims.sub === undefined && claims.sid === undefined) throw new Refused('neither sub nor sid'); // (5)
  if (!isObject(claims.events?.[EVENT])) throw new Refused('it is not about a logout'); // (6)
  if ('nonce' in claims) throw new Refused('there is a nonce'); // (7)
  if (!isName(claims.jti)) throw new Refused('the jti is missing'); // 2.4
  return claims;
}

const isName = (value) => typeof value === 'string' && value !== '';
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
/** In any case, and with its `application/` or without (RFC 7515 4.1.9). */
const mediaType = (typ) => (typeof typ === 'string' ? typ.toLowerCase().replace(/^application\//, '') : null);

/** One part of a token, which anybody may have written. */
function objectIn(part) {
  let found;
  try { found = JSON.parse(Buffer.from(part, 'base64url').toString()); } catch { /* what is no JSON is no object either */ }
  if (!isObject(found)) throw new Refused('it is not a signed JWT');
  return found;
}

/** When a token can no longer be taken, with the leeway. */
function goodUntil({ iat, exp }) {
  return (exp === undefined ? iat + AGE_WITHOUT_EXP_MAX_S : Math.min(exp, iat + AGE_MAX_S)) + LEEWAY_S;
}

function isSignedWith(key, [header, payload, signature]) {
  return verify(hash, Buffer.from(`${header}.${payload}`), { key, ...how }, Buffer.from(signature, 'base64url'));
}

/** The provider's key of that name. An unknown name is a reason to look again, and not more often than every few seconds. */
async function keyFor(kid) {
  if (!keys.has(kid) || Date.now() - keysFetchedAt > KEYS_MAX_AGE_MS) {
    if (fetching || Date.now() - keysAskedAt > KEYS_COOL_DOWN_MS) await (fetching ??= fetchKeys().finally(() => { fetching = null; }));
    else if (keysAskedAt > keysFetchedAt) throw new Away('the keys could not be had a moment ago');
  }
  if (!keys.has(kid)) throw new Refused('nobody published that key');
  return keys.get(kid);
}

async function fetchKeys() {
  keysAskedAt = Date.now();
  let set;
  try {
    const got = await fetch(settings.jwks, { signal: AbortSignal.timeout(3_000) });
    if (!got.ok) throw new Error(`the answer is ${got.status}`);
    set = await got.json();
    if (!Array.isArray(set?.keys)) throw new Error('there is no set of keys in the answer');
  } catch (cause) {
    throw new Away('the keys cannot be had', { cause });
  }
  keys = new Map(set.keys.flatMap(usable));
  keysFetchedAt = Date.now();
}

/** A key of a kind that is not understood, or not for this, stands in nobody's way (RFC 7517 5). */
function usable(jwk) {
  try {
    const key = createPublicKey({ key: jwk, format: 'jwk' });
    return key.asymmetricKeyType === keyType && (jwk.use === undefined || jwk.use === 'sig') ? [[jwk.kid, key]] : [];
  } catch {
    return [];
  }
}

/** 2.6 (8), with nothing in between: ending a session and writing the `jti` down are one transaction, where the sessions are in a database. */
function logOutOnce(claims, now) {
  for (const [jti, until] of seen) if (now >= until) seen.delete(jti);
  if (seen.has(claims.jti)) throw new Refused('the jti was used');
  logOut(claims);
  seen.set(claims.jti, goodUntil(claims));
}

/** 2.7. With a `sid`, that session and no other; without one, everything of this person. That there is none left is no failure. */
function logOut({ sub, sid }) {
  console.log(sid === undefined ? `every session of ${sub} ends` : `session ${sid} ends`);
}
