package api

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nervous/app/reconcile"
)

type reconcileHandler struct {
	reconciler      *reconcile.Reconciler
	defaultStrategy reconcile.Strategy
	demo            demo
}

// order is the body of POST /reconcile; all of it may be left out.
type order struct {
	Strategy string `json:"strategy"`
	// Limit is how many of the pending payments the run is for, the first ones; all if it is left out.
	Limit *int `json:"limit"`
}

// jobAnswer is a run as callers see it. Times are in seconds.
type jobAnswer struct {
	ID       uuid.UUID          `json:"id"`
	Strategy reconcile.Strategy `json:"strategy"`
	State    reconcile.State    `json:"state"`

	Total         int64    `json:"total"`
	Examined      int64    `json:"examined"`
	Progress      float64  `json:"progress"`
	RatePerSecond float64  `json:"rate_per_second"`
	ETASeconds    *float64 `json:"eta_seconds"`
	Seconds       float64  `json:"seconds"`

	Counts     reconcile.Counts `json:"counts"`
	RoundTrips jobRoundTrips    `json:"round_trips"`
	Degraded   int64            `json:"degraded"`
	Reopened   int64            `json:"reopened,omitempty"`
	Attempts   int              `json:"attempts"`
	Failures   int              `json:"failures,omitempty"`
	Replica    string           `json:"replica"`
	TraceID    string           `json:"trace_id"`
	Error      string           `json:"error,omitempty"`
	CreatedAt  time.Time        `json:"created_at"`
	FinishedAt *time.Time       `json:"finished_at,omitempty"`
}

type jobRoundTrips struct {
	Postgres    int64 `json:"postgres"`
	Redis       int64 `json:"redis"`
	Bookkeeping int64 `json:"bookkeeping"`
}

func answerOf(j reconcile.Job) jobAnswer {
	a := jobAnswer{
		ID: j.ID, Strategy: j.Strategy, State: j.State,
		Total: j.Total, Examined: j.Examined, Progress: j.Progress(), RatePerSecond: j.Rate(), Seconds: j.Took.Seconds(),
		Counts: j.Counts, RoundTrips: jobRoundTrips{j.DBTrips, j.RedisTrips, j.OwnTrips}, Degraded: j.Degraded,
		Reopened: j.Reopened, Attempts: j.Attempts, Failures: j.Failures, Replica: j.Replica, TraceID: j.TraceID,
		CreatedAt: j.CreatedAt,
	}
	if j.Err != "" {
		// Its text is the stores', and may name anything in them.
		a.Error = "The run has failed. The trace and the replica's log say why."
	}
	if eta, known := j.ETA(); known {
		a.ETASeconds = new(eta.Seconds())
	}
	if !j.FinishedAt.IsZero() {
		a.FinishedAt = &j.FinishedAt
	}
	return a
}

func locationOf(id uuid.UUID) string { return "/reconcile/" + id.String() }

// start answers POST /reconcile: the run goes on by itself, and Location says where to follow it.
func (h reconcileHandler) start(c echo.Context) error {
	asked, err := readOrder(c)
	if err != nil {
		return err
	}
	strategy, err := h.choose(c, asked.Strategy)
	if err != nil {
		return err
	}
	setStrategy(c, string(strategy))
	limit := 0 // all
	if asked.Limit != nil {
		limit = *asked.Limit
	}
	job, err := h.reconciler.Start(c.Request().Context(), strategy, limit)
	if err != nil {
		return pointToRunning(c, err)
	}
	c.Response().Header().Set(echo.HeaderLocation, locationOf(job.ID))
	return c.JSON(http.StatusAccepted, answerOf(job))
}

// maxOrder is more than any order takes, in bytes.
const maxOrder = 4096

// readOrder reads the body; none asks for nothing special.
func readOrder(c echo.Context) (asked order, err error) {
	if err := decodeStrictly(c, maxOrder, &asked); err != nil && !errors.Is(err, io.EOF) {
		return order{}, err
	}
	if asked.Limit != nil && (*asked.Limit < 1 || *asked.Limit > math.MaxInt32) {
		return order{}, problem{
			Status: http.StatusBadRequest, Title: "Limit out of range", Field: "limit",
			Detail: fmt.Sprintf("It is %d and must be from 1 to %d. Without it the run is for all.",
				*asked.Limit, math.MaxInt32),
		}
	}
	return asked, nil
}

func (h reconcileHandler) choose(c echo.Context, name string) (reconcile.Strategy, error) {
	if name == "" {
		return h.defaultStrategy, nil
	}
	var chosen reconcile.Strategy
	if err := chosen.UnmarshalText([]byte(name)); err != nil {
		return "", unknownStrategy("strategy", err)
	}
	if !h.demo.allows(c) && chosen != h.defaultStrategy {
		return "", notYoursToChoose("strategy")
	}
	return chosen, nil
}

// show answers GET /reconcile/:id.
func (h reconcileHandler) show(c echo.Context) error {
	id, err := runID(c)
	if err != nil {
		return err
	}
	job, err := h.reconciler.Job(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, answerOf(job))
}

// cancel answers DELETE /reconcile/:id.
func (h reconcileHandler) cancel(c echo.Context) error {
	id, err := runID(c)
	if err != nil {
		return err
	}
	job, err := h.reconciler.Cancel(c.Request().Context(), id)
	if err != nil {
		return err
	}
	if job.State.Over() {
		return c.JSON(http.StatusOK, answerOf(job))
	}
	return c.JSON(http.StatusAccepted, answerOf(job))
}

// reset answers DELETE /reconcile: every payment is pending again. Load scripts start with it.
func (h reconcileHandler) reset(c echo.Context) error {
	if err := h.reconciler.Reset(c.Request().Context()); err != nil {
		return pointToRunning(c, err)
	}
	return c.NoContent(http.StatusNoContent)
}

// runID reads the path. What cannot be a run's id is no run's id.
func runID(c echo.Context) (uuid.UUID, error) {
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		return uuid.Nil, reconcile.ErrNotFound
	}
	return id, nil
}

// pointToRunning adds to the refusal where the run is that stands in the way.
func pointToRunning(c echo.Context, err error) error {
	if running, ok := errors.AsType[reconcile.RunningError](err); ok {
		c.Response().Header().Set(echo.HeaderLocation, locationOf(running.ID))
	}
	return err
}
