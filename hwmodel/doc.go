// Package hwmodel is the device contract: what a device can hold, how it is
// programmed, and what it answers. Device-side vocabulary only: ports, router
// interfaces, routes, next hops, neighbours; never ifindexes, netlink or
// kernel table names. The one translator from kernel words is agent/resolve.
//
// The law every device obeys: a frame is forwarded exactly as the Linux kernel
// would forward it, or it is trapped to the host through the ingress port's
// representor. What is not programmed, traps.
//
// Packages below: refpipe (the executable specification), softpipe (the fast
// device), port (packet I/O), remote (the contract over a socket), hwtest (the
// conformance suite every device must pass). hwmodel itself imports nothing of
// ours.
package hwmodel
