// The work routes in Go, as a good Go engineer would write them: net/http on both sides, one tuned transport,
// contexts for deadlines and for the losers. The same contract as ours, without metrics, ids or headers.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"
)

const (
	longest    = 30 * time.Second
	hedgeAfter = 300 * time.Millisecond
	bodyLimit  = 1 << 20
)

var errBad = errors.New("the upstream failed")

// payload is what the upstream answers; time is a pointer to tell 0 from missing.
type payload struct {
	Time *float64 `json:"time"`
}

type result struct {
	body json.RawMessage
	err  error
}

type server struct {
	client   *http.Client
	upstream string
}

func main() {
	port := flag.Int("port", 8000, "where to listen on loopback")
	upstream := flag.String("upstream", "", "the address of the work API")
	flag.Parse()
	s := &server{
		upstream: *upstream,
		client: &http.Client{Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: longest, KeepAlive: 30 * time.Second}).DialContext,
			MaxIdleConns:        0, // without limit
			MaxIdleConnsPerHost: 20000,
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true,
			WriteBufferSize:     1 << 10,
			ReadBufferSize:      2 << 10,
		}},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/all", s.timed(s.all))
	mux.HandleFunc("GET /api/first", s.timed(s.first))
	mux.HandleFunc("GET /api/smart", s.timed(s.smart))
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "{}") })
	log.Fatal(http.ListenAndServe(net.JoinHostPort("127.0.0.1", strconv.Itoa(*port)), mux))
}

// timed gives a request its deadline; whatever still runs when it is answered is cancelled.
func (s *server) timed(handle func(context.Context, http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		timeout := longest
		if text := r.URL.Query().Get("timeout"); text != "" {
			ms, err := strconv.Atoi(text)
			if err != nil || ms < 1 || time.Duration(ms)*time.Millisecond > longest {
				fail(w, http.StatusBadRequest, "timeout is not valid")
				return
			}
			timeout = time.Duration(ms) * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		handle(ctx, w)
	}
}

// fetch asks once.
func (s *server) fetch(ctx context.Context) (json.RawMessage, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.upstream, nil)
	if err != nil {
		return nil, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, bodyLimit))
	if err != nil {
		return nil, err
	}
	var found payload
	if response.StatusCode != http.StatusOK || json.Unmarshal(body, &found) != nil || found.Time == nil {
		return nil, errBad
	}
	return body, nil
}

// start asks so many times at once.
func (s *server) start(ctx context.Context, results chan<- result, times int) {
	for range times {
		go func() {
			body, err := s.fetch(ctx)
			results <- result{body, err}
		}()
	}
}

func (s *server) all(ctx context.Context, w http.ResponseWriter) {
	results := make(chan result, 2)
	s.start(ctx, results, 2)
	found := make([]json.RawMessage, 0, 2)
	for range 2 {
		select {
		case one := <-results:
			if one.err == nil {
				found = append(found, one.body)
			}
		case <-ctx.Done():
			fail(w, http.StatusInternalServerError, "timeout")
			return
		}
	}
	if ctx.Err() != nil || len(found) == 0 {
		fail(w, http.StatusInternalServerError, "no success")
		return
	}
	reply(w, http.StatusOK, found)
}

func (s *server) first(ctx context.Context, w http.ResponseWriter) {
	results := make(chan result, 2)
	s.start(ctx, results, 2)
	for range 2 {
		select {
		case one := <-results:
			if one.err == nil {
				raw(w, one.body)
				return
			}
		case <-ctx.Done():
			fail(w, http.StatusInternalServerError, "timeout")
			return
		}
	}
	fail(w, http.StatusInternalServerError, "no success")
}

func (s *server) smart(ctx context.Context, w http.ResponseWriter) {
	began := time.Now()
	results := make(chan result, 3)
	s.start(ctx, results, 1)
	timer := time.NewTimer(hedgeAfter)
	defer timer.Stop()
	for started, ended := 1, 0; ended < started; {
		hedge := false
		select {
		case one := <-results:
			ended++
			if one.err == nil {
				reply(w, http.StatusOK, map[string]any{"time": time.Since(began).Milliseconds(), "api": one.body})
				return
			}
			hedge = true
		case <-timer.C:
			hedge = true
		case <-ctx.Done():
			fail(w, http.StatusServiceUnavailable, "timeout")
			return
		}
		if hedge && started == 1 {
			s.start(ctx, results, 2)
			started = 3
		}
	}
	fail(w, http.StatusServiceUnavailable, "no success")
}

func raw(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

func reply(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func fail(w http.ResponseWriter, status int, why string) {
	reply(w, status, map[string]string{"error": why})
}
