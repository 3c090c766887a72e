package transport

import "time"

// Version is the newest session protocol spoken here, MinVersion the oldest.
const (
	Version    = 1
	MinVersion = 1
)

// Limits of one session and one control call. A peer that exceeds one gets an
// error; nothing is dropped silently.
const (
	// MaxBlock is the most netlink bytes in one Block. The kernel fills dump
	// buffers of 32 KiB; 1 MiB gathers 32 of them, enough to make the cost of a
	// message vanish, little enough to keep what waits in a queue small.
	MaxBlock = 1 << 20
	// MaxMessage is the largest protobuf message of a session: a full block, its
	// envelope, and room for settings of many ports.
	MaxMessage = MaxBlock + 256<<10
	// MaxAnswer is the most bytes of an Answer's body; longer bodies are split in
	// answers with more set.
	MaxAnswer = MaxBlock
	// MaxControlBody bounds one control response, put together from answers: the
	// JSON of a million routes takes about 250 MB.
	MaxControlBody = 512 << 20
	// MaxControlArgs bounds the arguments of a control call.
	MaxControlArgs = 64 << 10
	// DefaultCredit is the shim's first sending window in bytes: 16 full blocks,
	// 10 ms of a 1.6 GB/s link, and what the shim may hold of a stalled agent.
	DefaultCredit = 16 * MaxBlock
	// MaxStreams is how many calls one connection may have open at once.
	MaxStreams = 64
	// flowWindow is the HTTP/2 window of a stream and of a connection: four blocks
	// keep a loopback busy.
	flowWindow = 4 * MaxBlock
	// ioBuffer is gRPC's own read and write buffer per connection.
	ioBuffer = 128 << 10
)

// Deadlines.
const (
	// HandshakeTimeout is how long a new connection has for its HTTP/2 preface and
	// then for its Hello.
	HandshakeTimeout = 5 * time.Second
	// KeepaliveTime is how long a connection may be silent before it is probed,
	// KeepaliveTimeout how long the answer may take.
	KeepaliveTime    = 10 * time.Second
	KeepaliveTimeout = 10 * time.Second
	// connectTimeout is how long one attempt to connect may take.
	connectTimeout = 3 * time.Second
)

// Exit statuses of a control call and of the programs that print its answer.
const (
	ExitOK          = 0
	ExitNegative    = 1 // drift, a timeout, an unhealthy part
	ExitUsage       = 2
	ExitUnreachable = 3
	ExitSkew        = 4
)
