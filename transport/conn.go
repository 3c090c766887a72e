package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"
)

// NewServer is a gRPC server with the package's limits. The caller registers its
// services, then calls Serve with a listener of Listen or Pipe.
func NewServer(opts ...grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxControlBody + MaxMessage),
		grpc.MaxConcurrentStreams(MaxStreams),
		grpc.ConnectionTimeout(HandshakeTimeout),
		grpc.InitialWindowSize(flowWindow),
		grpc.InitialConnWindowSize(flowWindow),
		grpc.ReadBufferSize(ioBuffer),
		grpc.WriteBufferSize(ioBuffer),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: KeepaliveTime, Timeout: KeepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: KeepaliveTime / 2, PermitWithoutStream: true}),
	}, opts...)...)
}

// Dial prepares a connection to an address of Listen. It connects with the first
// call, which fails at once when nobody answers.
func Dial(raw string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	e, err := parse(raw)
	if err != nil {
		return nil, err
	}
	return dial(func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, e.network, e.address)
	}, opts)
}

func dial(dialer func(context.Context, string) (net.Conn, error), opts []grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///antiphon", append([]grpc.DialOption{
		grpc.WithContextDialer(dialer),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithInitialWindowSize(flowWindow),
		grpc.WithInitialConnWindowSize(flowWindow),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: KeepaliveTime, Timeout: KeepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // it would keep what was sent
	}, opts...)...)
}

// Pipe is a listener in memory and the way to connect to it, for tests and
// simulations without sockets.
type Pipe struct{ *bufconn.Listener }

// NewPipe makes a pipe that is listening.
func NewPipe() Pipe { return Pipe{bufconn.Listen(ioBuffer)} }

// Connect is Dial for the pipe.
func (p Pipe) Connect(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return dial(func(ctx context.Context, _ string) (net.Conn, error) { return p.DialContext(ctx) }, opts)
}

// ErrHandshake means that a peer did not begin with Hello in time.
var ErrHandshake = errors.New("no hello")

// ReceiveHello reads the first message of a session, which must be a Hello and
// come within HandshakeTimeout. After an error the caller ends the stream by
// returning from its handler.
func ReceiveHello(stream grpc.BidiStreamingServer[FromShim, FromAgent]) (*Hello, error) {
	type result struct {
		msg *FromShim
		err error
	}
	got := make(chan result, 1)
	go func() {
		m, err := stream.Recv()
		got <- result{m, err}
	}()
	deadline := time.NewTimer(HandshakeTimeout)
	defer deadline.Stop()
	select {
	case <-deadline.C:
		return nil, fmt.Errorf("%w within %s", ErrHandshake, HandshakeTimeout)
	case r := <-got:
		if r.err != nil {
			return nil, fmt.Errorf("%w: %w", ErrHandshake, r.err)
		}
		h := r.msg.GetHello()
		if h == nil {
			return nil, fmt.Errorf("%w: first message is %T", ErrHandshake, r.msg.GetMsg())
		}
		return h, nil
	}
}
