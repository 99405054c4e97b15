// Listening: an HTTP server on a loopback port that the system chose.

import { createServer } from 'node:http';

/** A server whose address is known before anything is there to answer: parties name each other's URLs. */
export async function listen() {
  const server = createServer();
  await listening(server, 0);
  const { port } = server.address();
  return {
    url: `http://127.0.0.1:${port}`,
    serve: (handler) => server.on('request', handler),
    close: () => {
      server.closeAllConnections();
      server.close();
    },
    /** Nothing listens there until `comeBack`. */
    goAway: () => new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    }),
    comeBack: () => listening(server, port),
  };
}

function listening(server, port) {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** A port that was free a moment ago, for a process that cannot be handed an open socket. */
export async function freePort() {
  const probe = await listen();
  probe.close();
  return Number(new URL(probe.url).port);
}
