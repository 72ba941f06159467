// Page views, link clicks and identity of a web page. Nothing is stored in the browser before penstock.consent(true).
(function () {
  var script = document.currentScript, name = "penstock_visitor", queue = [], identity, timer;
  var url = new URL("v1/events", script.src);
  url.searchParams.set("key", script.dataset.key);
  function random() {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), function (byte) {
      return (byte + 256).toString(16).slice(1);
    }).join("");
  }
  var visitor = random();
  try { visitor = localStorage.getItem(name) || visitor; } catch (error) {}
  function send() {
    clearTimeout(timer);
    timer = 0;
    if (queue.length) navigator.sendBeacon(url, JSON.stringify(queue.splice(0, 100)));
    if (queue.length) send();
  }
  function track(event, properties) {
    var found = {id: random(), name: event, time: new Date().toISOString(), anonymous_id: visitor};
    if (identity) found.identity = identity;
    found.properties = properties || {};
    queue.push(found);
    timer = timer || setTimeout(send, 300);
  }
  function page() {
    track("page_viewed", {page: location.pathname, title: document.title.slice(0, 200),
      referrer: document.referrer.split("?")[0]});
  }
  addEventListener("click", function (event) {
    var link = event.target.closest && event.target.closest("a[href]");
    if (link) track("link_clicked", {page: location.pathname, link: link.href.split("?")[0]});
  }, true);
  addEventListener("pagehide", send);
  addEventListener("visibilitychange", send);
  window.penstock = {
    track: track,
    page: page,
    identify: function (token) { identity = token; track("identified"); },
    consent: function (given) {
      try { given ? localStorage.setItem(name, visitor) : localStorage.removeItem(name); } catch (error) {}
    }
  };
  page();
})();
