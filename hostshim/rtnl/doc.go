// Package rtnl reads rtnetlink as raw bytes: the notification socket with all
// mirrored groups (recvmmsg, whole datagrams gathered into blocks), dumps with
// the kernel's own filters, and the one write of the shim: "this neighbour is in
// use". It looks at message headers only; what a message means is decided in
// netstate, on the other side.
package rtnl
