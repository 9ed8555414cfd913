// Four domains. All texts were written for this page.

export const EXAMPLES = [
  {
    title: "Film",
    text: "did george clooney make a musical in the 1980s\n\nshow me slow science fiction films by "
      + "denis villeneuve with a score by jóhann jóhannsson\n\nwhich pixar movie won best animated "
      + "feature in 2004 🎬",
    labels: [
      { name: "actor", definition: "a person who plays a role in a film" },
      { name: "director", definition: "a person who makes a film" },
      { name: "genre", definition: "a kind of film" },
      { name: "year", definition: "a year or a decade" },
      { name: "studio", definition: "" },
      { name: "award", definition: "" },
    ],
  },
  {
    title: "Medicine",
    text: "A 67-year-old woman with type 2 diabetes and chronic kidney disease was admitted with "
      + "fever and a productive cough. Chest X-ray showed consolidation of the left lower lobe. "
      + "She was given amoxicillin 1 g every eight hours; metformin was stopped.\n\nOn day three a "
      + "rash appeared on both forearms. Amoxicillin was replaced by doxycycline 100 mg, and the "
      + "rash faded within two days.",
    labels: [
      { name: "drug", definition: "a substance given as a treatment" },
      { name: "dose", definition: "how much of a drug, and how often" },
      { name: "disease", definition: "a diagnosed illness" },
      { name: "symptom", definition: "what a patient has or feels" },
      { name: "body part", definition: "" },
      { name: "examination", definition: "a test or a procedure that finds something out" },
    ],
  },
  {
    title: "Contract",
    text: "This lease is made on 3 March 2025 between Hartmann & Söhne GmbH, Lindenstraße 14, "
      + "Leipzig (the Landlord) and Ms Aylin Demir (the Tenant).\n\nThe monthly rent is EUR 1,240, "
      + "due on the first working day of each month. The Tenant pays a deposit of three months' "
      + "rent. Either party may end the lease with three months' notice; § 573c BGB applies.",
    labels: [
      { name: "party", definition: "a person or company that signs" },
      { name: "role", definition: "what a party is in the contract, such as Landlord" },
      { name: "address", definition: "" },
      { name: "amount", definition: "a sum of money" },
      { name: "date", definition: "a day, or a rule for one" },
      { name: "period", definition: "a length of time" },
      { name: "law", definition: "a statute or a section of one" },
    ],
  },
  {
    title: "News",
    text: "Marta Kowalczyk scored twice as Legia Warszawa beat FC Porto 3–1 in Gdańsk on "
      + "Thursday night ⚽.\n\nفاز فريق الأهلي على الزمالك في القاهرة يوم السبت.\n\n"
      + "サッカー日本代表は東京でブラジルと対戦した。",
    labels: [
      { name: "player", definition: "a person who plays a sport" },
      { name: "team", definition: "a club or a national side" },
      { name: "city", definition: "" },
      { name: "score", definition: "the result of a match" },
      { name: "day", definition: "" },
    ],
  },
];
