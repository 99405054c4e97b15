// An application: a relying party as its library's documentation builds one, with a public page,
// a protected page, and back-channel logout switched on.

import express from 'express';
import oidc from 'express-openid-connect';

/** Starts an application at `door` that signs people in at `issuer`. */
export function startApplication({ door, issuer, client, scope, prompt }) {
  const signIns = [];
  const logoutTokens = [];
  const app = express();

  // For the checks only: what the library answered to each logout token it was sent.
  app.use((request, response, next) => {
    if (request.path === '/backchannel-logout') {
      response.on('finish', () => logoutTokens.push({ status: response.statusCode, token: request.body?.logout_token }));
    }
    next();
  });

  app.use(oidc.auth({
    issuerBaseURL: issuer,
    baseURL: door.url,
    clientID: client.client_id,
    clientSecret: client.client_secret,
    secret: `a cookie secret of ${client.client_id}, long enough`,
    authRequired: false,
    authorizationParams: { response_type: 'code', scope, ...(prompt && { prompt }) },
    session: { store: new MemoryStore() },
    backchannelLogout: true,
    afterCallback: (request, response, session) => {
      const { sub, sid } = claimsOf(session.id_token);
      signIns.push({ sub, sid, refreshToken: session.refresh_token });
      return session;
    },
  }));

  app.get('/me', oidc.requiresAuth(), (request, response) => {
    response.type('html').send(`<h1>${request.oidc.user.name} at ${client.client_id}</h1>`);
  });

  door.serve(app);
  return { id: client.client_id, secret: client.client_secret, issuer, page: `${door.url}/me`, signIns, logoutTokens };
}

/** The claims of a JWT that somebody else has verified. */
export function claimsOf(jwt) {
  return part(jwt, 1);
}

/** The JOSE header of a JWT. */
export function headerOf(jwt) {
  return part(jwt, 0);
}

function part(jwt, index) {
  return JSON.parse(Buffer.from(jwt.split('.')[index], 'base64url').toString());
}

// In the shape of an express-session store, which is what the library asks for.
class MemoryStore {
  #entries = new Map();

  get(id, callback) {
    callback(null, structuredClone(this.#entries.get(id)));
  }

  set(id, value, callback) {
    this.#entries.set(id, structuredClone(value));
    callback(null);
  }

  destroy(id, callback) {
    this.#entries.delete(id);
    callback(null);
  }
}
