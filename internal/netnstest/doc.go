// Package netnstest gives tests real network namespaces: throw-away namespaces,
// veth cables with fixed addresses and no offloads, and raw frames in and out.
// Completion is proved by sentinel frames, never by waiting. Linux and root only;
// only tests import it.
package netnstest
