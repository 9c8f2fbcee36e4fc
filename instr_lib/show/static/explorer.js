// The explorer of a static page: relevance over a spectrogram, with sound. Plain JavaScript over data in the page.
(function () {
  "use strict";
  var root = document.currentScript.parentElement;
  var data = JSON.parse(root.querySelector(".ex-data").textContent);
  var BANDS = data.bands, FRAMES = data.frames, SECONDS = data.seconds;
  var $ = function (name) { return root.querySelector(".ex-" + name); };
  var clipBox = $("clip"), wayBox = $("way"), opacityBox = $("opacity"), canvas = $("picture"), sound = $("sound");
  var boxes = Array.prototype.slice.call(root.querySelectorAll(".ex-instruments input"));
  // Of a recording in windows: one column of its timeline each.
  var columns = Array.prototype.slice.call(root.querySelectorAll(".ex-column"));
  var context = canvas.getContext("2d", { willReadFrequently: true });
  var clip = null, pixels = null, cell = null, loading = 0;

  function row(index) { return pixels.subarray(index * BANDS * FRAMES, (index + 1) * BANDS * FRAMES); }
  function chosen() { return boxes.filter(function (b) { return b.checked; }).map(function (b) { return +b.value; }); }
  // Stored as 128 + 127 * sign * sqrt(size); what is next to 128 is the picture format's noise.
  function value(byte) { var v = (byte - 128) / 127; return Math.abs(v) < data.noise ? 0 : Math.max(-1, Math.min(1, v)); }
  function percent(share) { return share < 0.005 ? "under 1 %" : Math.round(100 * share) + " %"; }
  function list(words) {
    return words.length < 2 ? words.join("") : words.slice(0, -1).join(", ") + " and " + words[words.length - 1];
  }

  // What is shown: [instrument, row of the picture], by the way chosen.
  function maps() {
    if (wayBox.value === "") return chosen().map(function (i) { return [i, 1 + i]; });
    var way = clip.ways[+wayBox.value];
    return [[way.instrument, way.row]];
  }

  function draw() {
    if (!pixels) return;
    var image = context.createImageData(FRAMES, BANDS), out = image.data, mel = row(0);
    var shown = maps(), signed = shown.length === 1, strength = +opacityBox.value / 100;
    var heatmaps = shown.map(function (m) { return row(m[1]); });
    var colours = shown.map(function (m) { return data.instruments[m[0]].rgb; });
    for (var y = 0; y < BANDS; y++) for (var x = 0; x < FRAMES; x++) {
      var from = y * FRAMES + x, to = 4 * ((BANDS - 1 - y) * FRAMES + x), grey = 255 - 0.72 * mel[from];
      var r = grey, g = grey, b = grey;
      for (var k = 0; k < heatmaps.length; k++) {
        var v = value(heatmaps[k][from]), c = colours[k];
        if (signed) c = v > 0 ? data.for : data.against;
        if (!signed && v < 0) v = 0;
        var a = strength * Math.abs(v);
        r += a * (c[0] - r); g += a * (c[1] - g); b += a * (c[2] - b);
      }
      out[to] = r; out[to + 1] = g; out[to + 2] = b; out[to + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    describe();
  }

  function describe() {
    var shown = maps(), sentences = shown.map(function (m) {
      var i = m[0], plays = clip.plays.indexOf(i) >= 0, text = data.instruments[i].name;
      if (wayBox.value !== "") {
        return text + " through " + clip.ways[+wayBox.value].text + ".";
      }
      text += clip.unknown ? ": " : plays ? " plays, " : " does not play, ";
      text += "the network says " + percent(clip.probabilities[i]);
      if (plays && clip.own[i] != null && clip.plays.length > 1) {
        text += "; " + percent(clip.own[i]) + " of what speaks for it lies on cells where it has most of the power";
      }
      return text + ".";
    });
    $("says").textContent = sentences.join(" ") || "No instrument is chosen: this is the spectrogram alone.";
    canvas.setAttribute("aria-label", "Spectrogram of " + clip.name + (shown.length ? ", with relevance for " +
      list(shown.map(function (m) { return data.instruments[m[0]].name; })) : "") + ". Arrow keys move a reading point.");
  }

  function read(x, y) {
    if (!pixels) return;
    cell = [Math.max(0, Math.min(FRAMES - 1, x)), Math.max(0, Math.min(BANDS - 1, y))];
    var at = cell[1] * FRAMES + cell[0], hz = data.hz[cell[1]];
    var text = (cell[0] * SECONDS / (FRAMES - 1)).toFixed(2) + " s, " + (hz < 1000 ? Math.round(hz) + " Hz" :
      (hz / 1000).toFixed(1) + " kHz") + ", " + Math.round(-80 + row(0)[at] * 80 / 255) + " dB";
    maps().forEach(function (m) {
      var v = value(row(m[1])[at]);
      text += "; " + data.instruments[m[0]].name + ": " + (v === 0 ? "no relevance" :
        Math.round(100 * v * v) + " % of the scale " + (v > 0 ? "for" : "against"));
    });
    var owners = clip.owners.map(function (number, n) { return [clip.plays[n], row(number)[at] / 255]; });
    if (owners.length > 1 && row(0)[at] > 2) {
      text += "; the power is " + list(owners.filter(function (o) { return o[1] > 0.02; }).map(function (o) {
        return percent(o[1]) + " " + data.instruments[o[0]].name;
      }));
    }
    $("pointer").textContent = text;
    var mark = $("mark");
    mark.style.left = 100 * (cell[0] + 0.5) / FRAMES + "%";
    mark.style.bottom = 100 * (cell[1] + 0.5) / BANDS + "%";
    mark.hidden = false;
  }

  function load(index) {
    clip = data.clips[index];
    pixels = null;
    var number = ++loading, image = new Image();
    wayBox.innerHTML = "";
    [["", "the whole network"]].concat(clip.ways.map(function (way, n) {
      return [n, data.instruments[way.instrument].name + " through " + way.text];
    })).forEach(function (pair) { wayBox.add(new Option(pair[1], pair[0])); });
    boxes.forEach(function (box) {
      var i = +box.value;
      box.checked = clip.plays.indexOf(i) >= 0;
      box.parentElement.querySelector(".ex-chance").textContent =
        (clip.plays.indexOf(i) >= 0 && !clip.unknown ? " ♪ " : " ") + percent(clip.probabilities[i]);
    });
    columns.forEach(function (column, n) { column.classList.toggle("ex-now", n === index); });
    sound.src = clip.sound;
    sound.setAttribute("aria-label", clip.name);
    playhead();
    image.onload = function () {
      if (number !== loading) return;
      var scratch = document.createElement("canvas"), rows = image.naturalHeight;
      scratch.width = FRAMES; scratch.height = rows;
      var pen = scratch.getContext("2d", { willReadFrequently: true });
      pen.drawImage(image, 0, 0);
      var rgba = pen.getImageData(0, 0, FRAMES, rows).data;
      pixels = new Uint8Array(FRAMES * rows);
      for (var i = 0; i < pixels.length; i++) pixels[i] = rgba[4 * i];
      draw();
      if (cell) read(cell[0], cell[1]);
    };
    image.onerror = function () { $("says").textContent = "This browser cannot show the picture of " + clip.name + "."; };
    image.src = clip.picture;
  }

  function playhead() {
    $("playhead").style.left = 100 * Math.min(1, sound.currentTime / SECONDS) + "%";
    if (!sound.paused && !sound.ended) requestAnimationFrame(playhead);
  }

  data.clips.forEach(function (c, n) { clipBox.add(new Option(c.name, n)); });
  clipBox.value = data.first;
  clipBox.addEventListener("change", function () { load(+clipBox.value); });
  function go(index, play) {
    clipBox.value = index;
    load(index);
    if (play) sound.play();
  }
  columns.forEach(function (column, n) { column.addEventListener("click", function () { go(n, !sound.paused); }); });
  if (columns.length) sound.addEventListener("ended", function () {
    if (+clipBox.value + 1 < columns.length) go(+clipBox.value + 1, true); // the recording goes on
  });
  boxes.forEach(function (box) { box.addEventListener("change", function () { wayBox.value = ""; draw(); }); });
  wayBox.addEventListener("change", draw);
  opacityBox.addEventListener("input", draw);
  ["play", "seeked", "timeupdate", "ended"].forEach(function (name) { sound.addEventListener(name, playhead); });
  canvas.addEventListener("pointermove", function (event) {
    var box = canvas.getBoundingClientRect();
    read(Math.floor((event.clientX - box.left) / box.width * FRAMES),
      Math.floor((box.bottom - event.clientY) / box.height * BANDS));
  });
  canvas.addEventListener("click", function (event) {
    var box = canvas.getBoundingClientRect();
    sound.currentTime = Math.max(0, (event.clientX - box.left) / box.width * SECONDS);
    playhead();
  });
  canvas.addEventListener("keydown", function (event) {
    var step = event.shiftKey ? 16 : 1, move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step],
      ArrowDown: [0, -step] }[event.key];
    if (move) {
      var at = cell || [FRAMES >> 1, BANDS >> 2];
      read(at[0] + move[0], at[1] + move[1]);
    } else if (event.key === " " || event.key === "Enter") {
      if (sound.paused) sound.play(); else sound.pause();
    } else return;
    event.preventDefault();
  });
  load(data.first);
  root.classList.add("ex-ready");
})();
