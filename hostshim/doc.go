// Package hostshim is the host's half of Antiphon. Mirror is its pure core: what
// goes out, in which order, under which sequence number and within which window.
// Shim is the loop around it: netlink sockets, settings, the session with the
// agent and the control socket. The shim keeps no rows: what it holds is bounded
// by the window, whatever the size of the kernel's tables.
package hostshim
