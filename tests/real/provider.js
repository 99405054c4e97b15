// The identity provider: oidc-provider with three accounts, a sign-in form, a consent form, and what
// the guide in examples/providers adds for logoutd.

import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes, generateKeyPairSync } from 'node:crypto';
import express from 'express';
import { Provider } from 'oidc-provider';

const ACCOUNTS = new Map([
  ['alice', { name: 'Alice', password: 'alice has a password' }],
  ['bob', { name: 'Bob', password: 'bob has one too' }],
  ['carol', { name: 'Carol', password: "carol's is longer" }],
]);
const HOUR = 3600;
/** How often it looks for keys to publish. The guide says a minute, which is a long time in a test. */
const REFRESH_MS = 100;

/** What a person types into the sign-in form. */
export function credentials(account) {
  return { login: account, password: ACCOUNTS.get(account).password };
}

/**
 * Starts the provider at `door`.
 *
 * - `publish` is the address of the JWK set to publish beside its own (nothing unless given);
 * - `key` is its private JWK (one of its own making unless given);
 * - `endSessionSecret` opens the route by which logoutd ends a session (closed unless given);
 * - `proxy` is a proxy before its JWKS address: `to` answers there, and the provider itself is to be found at the door `behind`;
 * - `sends` says that its own logout tokens leave it;
 * - `slowMs` is by how much its clock is behind.
 */
export function startProvider({ door, clients, publish, key = signingKey(), endSessionSecret, proxy, sends = false, slowMs = 0 }) {
  const provider = new Provider(door.url, {
    clients,
    jwks: { keys: [key] },
    cookies: { keys: [randomBytes(32).toString('base64url')] },
    claims: { openid: ['sub', 'sid'], profile: ['name'] },
    conformIdTokenClaims: false,
    findAccount,
    // By itself it refuses to send to loopback addresses, which is where everybody is here.
    ...(sends && { fetch: (url, options) => globalThis.fetch(url, { ...options, dispatcher: undefined }) }),
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
    },
    // Refresh tokens for every application: with `offline_access` they outlive the session, without
    // it they end with it.
    issueRefreshToken: (_, client) => client.grantTypeAllowed('refresh_token'),
    rotateRefreshToken: true,
    ttl: { AccessToken: HOUR, Grant: 24 * HOUR, IdToken: HOUR, Interaction: HOUR, RefreshToken: 24 * HOUR, Session: 24 * HOUR },
  });
  if (publish) provider.use(beside(publish));
  for (const trouble of ['server_error', 'authorization.error', 'grant.error']) {
    // A refused grant is an answer, and one of the checks asks for it.
    provider.on(trouble, (_, error) => { if (error.error !== 'invalid_grant') console.error(`${trouble}: ${error.stack}`); });
  }

  const app = express();
  app.use('/interaction', interactions(provider));
  if (endSessionSecret) app.delete('/logoutd/sessions/:sid', endSession(provider, endSessionSecret));
  if (proxy) {
    proxy.behind.serve(provider.callback());
    app.get('/jwks', async (_, response) => { response.json(await proxy.to()); });
  }
  app.use(provider.callback());
  door.serve((request, response) => slowness.run(slowMs, () => app(request, response)));
  return provider;
}

// One process has one clock, and here two providers: one of them must be able to be slow.
const slowness = new AsyncLocalStorage();
const clock = Date.now;
Date.now = () => clock() - (slowness.getStore() ?? 0);

// As the guide has it: the last good answer of logoutd is published beside the provider's own keys, which win should a `kid` occur twice.
function beside(url) {
  let ours = [];
  async function refresh() {
    try {
      const answer = await fetch(url, { signal: AbortSignal.timeout(1000) });
      const { keys } = await answer.json();
      if (answer.ok && Array.isArray(keys)) ours = keys;
    } catch { /* away, slow, or no JSON: what was heard last stays */ }
  }
  refresh();
  setInterval(refresh, REFRESH_MS).unref();
  return async (ctx, next) => {
    await next();
    if (ctx.oidc?.route !== 'jwks') return;
    const theirs = new Set(ctx.body.keys.map((key) => key.kid));
    ctx.body = { keys: [...ctx.body.keys, ...ours.filter((key) => !theirs.has(key.kid))] };
  };
}

// As the guide has it: ends the session and what was granted in it.
function endSession(provider, secret) {
  return async (request, response) => {
    if (request.headers.authorization !== `Bearer ${secret}`) {
      response.sendStatus(401);
      return;
    }
    const session = await provider.Session.findByUid(request.params.sid);
    if (!session) {
      response.sendStatus(404);
      return;
    }
    for (const { grantId } of Object.values(session.authorizations ?? {})) {
      if (grantId) await Promise.all([provider.AccessToken, provider.RefreshToken].map((model) => model.revokeByGrantId(grantId)));
    }
    await session.destroy();
    response.sendStatus(204);
  };
}

/** A private key for a provider. */
export function signingKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256' };
}

async function findAccount(_, accountId) {
  const account = ACCOUNTS.get(accountId);
  return account && { accountId, claims: async () => ({ sub: accountId, name: account.name }) };
}

function interactions(provider) {
  const routes = express.Router();

  routes.get('/:uid', async (request, response) => {
    const { prompt } = await provider.interactionDetails(request, response);
    response.type('html').send(prompt.name === 'login' ? SIGN_IN : CONSENT);
  });

  routes.post('/:uid', express.urlencoded({ extended: false }), async (request, response) => {
    const { prompt, session, params, grantId } = await provider.interactionDetails(request, response);
    if (prompt.name === 'login') {
      const { login, password } = request.body;
      if (ACCOUNTS.get(login)?.password !== password) {
        response.status(401).type('html').send(SIGN_IN);
        return;
      }
      await provider.interactionFinished(request, response, { login: { accountId: login } });
      return;
    }
    const grant = grantId
      ? await provider.Grant.find(grantId)
      : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    const consent = { grantId: await grant.save() };
    await provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
  });

  return routes;
}

const SIGN_IN = '<form method="post" action=""><input name="login"><input name="password" type="password"></form>';
const CONSENT = '<form method="post" action=""><button>Allow</button></form>';
