package replica_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"nervous/app/servicetest/replica"
)

func TestMain(m *testing.M) {
	replica.Serve(func(s settings, seen *replica.Telemetry) any { return &counter{settings: s, seen: seen} })
	m.Run()
}

// settings are a counter's.
type settings struct{ Start int64 }

// counter is the service that these tests are about.
type counter struct {
	settings settings
	seen     *replica.Telemetry
}

// Add answers with the sum of what the counter started with and what is given.
func (c *counter) Add(n int64, sum *int64) error {
	if n < 0 {
		return errors.New("it only counts up")
	}
	fmt.Println("this would not be an answer, were it in its place")
	*sum = c.settings.Start + n
	return nil
}

// Idle answers never.
func (c *counter) Idle(struct{}, *struct{}) error { select {} }

// PID answers with the number of its process.
func (c *counter) PID(_ struct{}, pid *int) error {
	*pid = os.Getpid()
	return nil
}

// Observe records one of each of what can be read, and answers with the span that its span links to.
func (c *counter) Observe(_ struct{}, linked *string) error {
	ctx, meter, tracer := context.Background(), c.seen.MeterProvider.Meter("test"), c.seen.TracerProvider.Tracer("test")
	even, odd := metric.WithAttributes(attribute.String("kind", "even"), attribute.Bool("late", true)),
		metric.WithAttributes(attribute.String("kind", "odd"))
	sum, _ := meter.Int64Counter("sum")
	sum.Add(ctx, 2, even)
	sum.Add(ctx, 3, odd)
	last, _ := meter.Float64Gauge("last")
	last.Record(ctx, 7)
	last.Record(ctx, 0.5)
	duration, _ := meter.Float64Histogram("duration")
	duration.Record(ctx, 0.1)
	duration.Record(ctx, 0.2)
	size, _ := meter.Int64Histogram("size")
	size.Record(ctx, 10)
	size.Record(ctx, 20)

	_, cause := tracer.Start(ctx, "cause")
	cause.End()
	*linked = cause.SpanContext().SpanID().String()
	kind := attribute.String("link", "cause")
	_, span := tracer.Start(ctx, "effect", trace.WithNewRoot(), trace.WithLinks(trace.Link{
		SpanContext: cause.SpanContext(), Attributes: []attribute.KeyValue{kind},
	}), trace.WithAttributes(attribute.Int("n", 1)))
	span.AddEvent("happened")
	span.RecordError(errors.New("refused"))
	span.End()
	return nil
}

const patience = 30 * time.Second

func TestAReplicaAnswersByItsSettings(t *testing.T) {
	t.Parallel()
	one, other := replica.Start(t, patience, settings{Start: 1}), replica.Start(t, patience, settings{Start: 2})
	var sum int64
	one.Call("Add", int64(20), &sum)
	require.EqualValues(t, 21, sum)
	other.Call("Add", int64(20), &sum)
	require.EqualValues(t, 22, sum)
	require.EqualError(t, one.Try("Add", int64(-1), &sum), "it only counts up")

	var ones, others int
	one.Call("PID", struct{}{}, &ones)
	other.Call("PID", struct{}{}, &others)
	require.Len(t, map[int]bool{ones: true, others: true, os.Getpid(): true}, 3, "each is a process of its own")
}

func TestAReplicaThatIsKilledAnswersWithAnError(t *testing.T) {
	t.Parallel()
	p := replica.Start(t, patience, settings{})
	var pid int
	p.Call("PID", struct{}{}, &pid)
	idle := make(chan error, 1)
	go func() { idle <- p.Try("Idle", struct{}{}, &struct{}{}) }()
	p.Kill()
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	require.Error(t, <-idle)
	require.Error(t, p.Try("PID", struct{}{}, &pid))
	p.Kill()
	p.Signal(syscall.SIGCONT)
}

func TestAReplicaThatIsPausedAnswersLater(t *testing.T) {
	t.Parallel()
	p := replica.Start(t, patience, settings{})
	var pid int
	p.Call("PID", struct{}{}, &pid)
	p.Signal(syscall.SIGSTOP)
	answer := make(chan error, 1)
	go func() { answer <- p.Try("Add", int64(1), new(int64)) }()
	select {
	case err := <-answer:
		require.Fail(t, "it was paused", "%v", err)
	case <-time.After(100 * time.Millisecond):
	}
	p.Signal(syscall.SIGCONT)
	require.NoError(t, <-answer)
}

func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	p := replica.Start(t, 50*time.Millisecond, settings{})
	require.EqualError(t, p.Try("Idle", struct{}{}, &struct{}{}), "no answer within 50ms")
}

func TestWhatAReplicaSaysOfItself(t *testing.T) {
	t.Parallel()
	p := replica.Start(t, patience, settings{})
	require.Empty(t, p.Metric("sum", "kind"))
	require.Empty(t, p.Spans(""))
	var linked string
	p.Call("Observe", struct{}{}, &linked)

	require.Equal(t, map[string]float64{"": 5}, p.Metric("sum"))
	require.Equal(t, map[string]float64{"even true": 2, "odd ": 3}, p.Metric("sum", "kind", "late"))
	require.Equal(t, map[string]float64{"": 0.5}, p.Metric("last"))
	require.Equal(t, map[string]float64{"": 2}, p.Metric("duration"), "so many were measured")
	require.Equal(t, map[string]float64{"": 30}, p.Metric("size"), "so much was measured")

	require.Len(t, p.Spans(""), 2)
	effects := p.Spans("effect")
	require.Len(t, effects, 1)
	causes := p.Spans("cause")
	require.Len(t, causes, 1)
	require.Equal(t, linked, causes[0].ID)
	require.NotEqual(t, causes[0].Trace, effects[0].Trace)
	effects[0].Trace, effects[0].ID = "", ""
	require.Equal(t, replica.Span{
		Name: "effect", Root: true, Links: map[string][]string{"cause": {linked}}, Attributes: map[string]string{"n": "1"},
		Events: []string{"happened", "refused"},
	}, effects[0])
}

// TestNoReplicaIsLeftWhenTheTestIsKilled runs this binary again as the owner of a replica, paused so that it hears
// nothing but KILL, and kills the owner as hard as can be.
func TestNoReplicaIsLeftWhenTheTestIsKilled(t *testing.T) {
	t.Parallel()
	owner := exec.Command(os.Args[0], "-test.run=^TestOwnAReplicaUntilKilled$")
	owner.Env = append(os.Environ(), "REPLICA_OWNER=1")
	owner.Stderr = os.Stderr
	stdout, err := owner.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, owner.Start())
	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan())
	pid, err := strconv.Atoi(lines.Text())
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, 0), "it lives")
	require.NoError(t, owner.Process.Kill())
	require.Error(t, owner.Wait())
	require.Eventually(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }, patience, 10*time.Millisecond)
}

// TestOwnAReplicaUntilKilled is no test: it is the process that the test above kills.
func TestOwnAReplicaUntilKilled(t *testing.T) {
	if os.Getenv("REPLICA_OWNER") == "" {
		return
	}
	p := replica.Start(t, patience, settings{})
	var pid int
	p.Call("PID", struct{}{}, &pid)
	p.Signal(syscall.SIGSTOP)
	fmt.Println(pid)
	select {}
}
