package api

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"nervous/app/cache"
	"nervous/app/trending"
)

type trendingHandler struct {
	trending        *trending.Trending
	defaultStrategy trending.Strategy
	demo            demo
}

type trendingAnswer struct {
	Strategy trending.Strategy `json:"strategy"`
	Window   string            `json:"window"`
	trending.List
}

// list answers GET /posts/trending[?strategy=].
func (h trendingHandler) list(c echo.Context) error {
	strategy, err := h.choose(c, c.QueryParam("strategy"))
	if err != nil {
		return err
	}
	setStrategy(c, string(strategy))
	list, info, err := h.trending.Top(c.Request().Context(), strategy)
	describe(c, info)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, trendingAnswer{strategy, trending.WindowName, list})
}

// forget answers DELETE /posts/trending: the next answer is computed. Load scripts start their cold phases with it.
func (h trendingHandler) forget(c echo.Context) error {
	if err := h.trending.Forget(c.Request().Context()); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (h trendingHandler) choose(c echo.Context, name string) (trending.Strategy, error) {
	if name == "" {
		return h.defaultStrategy, nil
	}
	var chosen trending.Strategy
	if err := chosen.UnmarshalText([]byte(name)); err != nil {
		return "", unknownStrategy("strategy", err)
	}
	if !h.demo.allows(c) && chosen != h.defaultStrategy {
		return "", notYoursToChoose("strategy")
	}
	return chosen, nil
}

// describe says in headers how the answer was come by: Cache-Status of RFC 9211, Age of RFC 9111.
func describe(c echo.Context, info cache.Info) {
	header := c.Response().Header()
	header.Set("Cache-Status", "nervous; "+cacheStatus(info))
	if info.Stored {
		header.Set("Age", strconv.Itoa(int(info.Age.Seconds())))
	}
	c.Set(cacheResultKey, info.Result)
}

func cacheStatus(info cache.Info) string {
	ttl := int(info.TTL.Seconds())
	switch info.Result {
	case cache.ResultHit:
		return fmt.Sprintf("hit; ttl=%d", ttl)
	case cache.ResultStale:
		return fmt.Sprintf("hit; ttl=%d; detail=stale", ttl)
	case cache.ResultWait:
		return "fwd=miss; collapsed"
	case cache.ResultMiss:
		if info.Stored {
			return fmt.Sprintf("fwd=miss; stored; ttl=%d", ttl)
		}
		return "fwd=miss"
	case cache.ResultError:
		return "fwd=miss; detail=error"
	}
	return "fwd=bypass"
}
