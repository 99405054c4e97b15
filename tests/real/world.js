// What every scenario begins with.

import { randomBytes } from 'node:crypto';

/** The provider's part of logoutd's API. */
export const API = '/v1/issuers/op';

/** An application as both its provider and logoutd are told of it: they speak OpenID Connect's names. */
export function registration(id, door) {
  return {
    client_id: id,
    client_name: `The ${id}`,
    client_secret: randomBytes(32).toString('base64url'),
    redirect_uris: [`${door.url}/callback`],
    grant_types: ['authorization_code', 'refresh_token'],
    backchannel_logout_uri: `${door.url}/backchannel-logout`,
    backchannel_logout_session_required: true,
    id_token_signed_response_alg: 'RS256',
  };
}
