// Listening: an HTTP server on a loopback port that the system chose.

import { createServer } from 'node:http';

/** A server whose address is known before anything is there to answer: parties name each other's URLs. */
export async function listen() {
  const server = createServer();
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    serve: (handler) => server.on('request', handler),
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** A port that was free a moment ago, for a process that cannot be handed an open socket. */
export async function freePort() {
  const probe = await listen();
  probe.close();
  return Number(new URL(probe.url).port);
}
