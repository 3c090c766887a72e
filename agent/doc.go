// Package agent joins the mirror to the device: it serves the shim's session,
// keeps the Replica, lets the Resolver turn it into what the device shall hold,
// applies the difference, and sends back acks, counters, use and dump requests.
//
// One goroutine owns all state (core.go). Around it thin loops: the session's
// receiver and sender (session.go), the device's loop (device.go). They talk to
// the core in tasks over one bounded channel; the core never blocks on them.
//
// Reading order: agent.go (the loop), core.go, session.go, authority.go,
// device.go, barrier.go, outbox.go, count.go, view.go. The verbs people call are
// in package api.
package agent
