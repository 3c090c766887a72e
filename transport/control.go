package transport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Verbs of the control service.
const (
	VerbBarrier  = "barrier"
	VerbShow     = "show"
	VerbCounters = "counters"
	VerbStatus   = "status"
	VerbWhy      = "why"
	VerbVerify   = "verify"
	VerbTrace    = "trace"
)

// ShowArgs are the arguments of "show".
type ShowArgs struct {
	// Kind is a word of netstate.ParseKind.
	Kind string `json:"kind"`
	// Filter is iproute2's words after the kind: "10.0.0.0/8", "dev", "swp1", …
	Filter []string `json:"filter,omitempty"`
	// Family limits it to AF_INET (2) or AF_INET6 (10); 0 is both.
	Family uint8 `json:"family,omitempty"`
	Stats  bool  `json:"stats,omitempty"`
}

// CountersArgs are the arguments of "counters".
type CountersArgs struct {
	// Reasons asks why packets trapped, beside why they were dropped.
	Reasons bool `json:"reasons,omitempty"`
}

// BarrierArgs are the arguments of "barrier".
type BarrierArgs struct {
	// TimeoutMS is how long to wait in milliseconds; 0 means the default (30 s).
	TimeoutMS uint32 `json:"timeout_ms,omitempty"`
	// Audit dumps every kind again first.
	Audit bool `json:"audit,omitempty"`
}

// WhyArgs are the arguments of "why".
type WhyArgs struct {
	// Object is iproute2's words for one object: "10.2.0.0/16" or "neigh",
	// "192.0.2.1", "dev", "swp1".
	Object []string `json:"object,omitempty"`
	// Refused lists everything that the device did not take instead.
	Refused bool `json:"refused,omitempty"`
}

// TraceArgs are the arguments of "trace".
type TraceArgs struct {
	// Port is the name of the ingress port.
	Port string `json:"port"`
	// Frame is the packet from the destination MAC on, without FCS.
	Frame []byte `json:"frame"`
}

// VerifyArgs are the arguments of "verify".
type VerifyArgs struct {
	// TimeoutMS as in BarrierArgs.
	TimeoutMS uint32 `json:"timeout_ms,omitempty"`
}

// Handler answers one control call. args is the JSON of the verb's argument
// struct or empty; body is one JSON document. An error with exit 0 means
// ExitNegative.
type Handler func(ctx context.Context, verb string, args []byte) (body []byte, exit int, err error)

// ServeControl registers the control service at a server that is not serving yet.
func ServeControl(srv grpc.ServiceRegistrar, h Handler) {
	RegisterControlServer(srv, controlServer{handle: h})
}

type controlServer struct {
	UnimplementedControlServer
	handle Handler
}

func (s controlServer) Call(ctx context.Context, r *Request) (*Response, error) {
	if len(r.GetArgs()) > MaxControlArgs {
		return &Response{Exit: ExitUsage, Error: fmt.Sprintf("arguments of %d bytes, at most %d are taken", len(r.GetArgs()), MaxControlArgs)}, nil
	}
	body, exit, err := s.handle(ctx, r.GetVerb(), r.GetArgs())
	resp := &Response{Body: body, Exit: uint32(exit)}
	if err != nil {
		resp.Error = err.Error()
		if exit == ExitOK {
			resp.Exit = ExitNegative
		}
	}
	if len(body) > MaxControlBody {
		return &Response{Exit: ExitNegative, Error: fmt.Sprintf("the answer has %d bytes, at most %d can be sent: use a filter", len(body), MaxControlBody)}, nil
	}
	return resp, nil
}

// Call asks the daemon that listens at socketPath. args is the verb's argument
// struct or nil. exit is the status a program should end with: ExitUnreachable
// when nobody answers, ExitSkew when the peer does not know the service. A
// negative answer may come with a body, an error, or both.
func Call(ctx context.Context, socketPath, verb string, args any) (body []byte, exit int, err error) {
	conn, err := Dial("unix://" + socketPath)
	if err != nil {
		return nil, ExitUsage, err
	}
	defer conn.Close()
	return CallOn(ctx, conn, verb, args)
}

// CallOn is Call over an existing connection.
func CallOn(ctx context.Context, conn *grpc.ClientConn, verb string, args any) (body []byte, exit int, err error) {
	req := &Request{Verb: verb}
	if args != nil {
		if req.Args, err = json.Marshal(args); err != nil {
			return nil, ExitUsage, fmt.Errorf("arguments of %s: %w", verb, err)
		}
	}
	resp, err := NewControlClient(conn).Call(ctx, req, grpc.MaxCallRecvMsgSize(MaxControlBody+MaxMessage))
	switch status.Code(err) {
	case codes.OK:
	case codes.Unavailable:
		return nil, ExitUnreachable, fmt.Errorf("%s: cannot reach the daemon: %s", verb, status.Convert(err).Message())
	case codes.Unimplemented:
		return nil, ExitSkew, fmt.Errorf("%s: the daemon does not speak this control protocol: %w", verb, err)
	case codes.DeadlineExceeded:
		return nil, ExitNegative, fmt.Errorf("%s: %w", verb, context.DeadlineExceeded)
	case codes.Canceled:
		return nil, ExitNegative, fmt.Errorf("%s: %w", verb, context.Canceled)
	default:
		return nil, ExitUnreachable, fmt.Errorf("%s: %w", verb, err)
	}
	if msg := resp.GetError(); msg != "" {
		err = errors.New(msg)
	}
	return resp.GetBody(), int(resp.GetExit()), err
}
